"""Training runs as tests start them: through the command line's own parser, in this process or in one of their own."""

from __future__ import annotations

import contextlib
import dataclasses as dc
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from swiftlike.cli.commands import load
from swiftlike.cli.layers import build_run

# One full batch a step, everything logged, nothing held out and nothing saved unless a test says otherwise.
USUAL = {
    "dataset_test_ratio": "0",
    "batch_size": "8",
    "gradient_accumulation_steps": "1",
    "logging_steps": "1",
    "report_to": "none",
    "save_strategy": "no",
    "lr_scheduler_type": "constant",
    "warmup_ratio": "0",
}
APART = ("elapsed_s", "remaining_s", "tokens_per_s", "padding", "memory_gib")
Flags = dict[str, Any]


@dc.dataclass(frozen=True)
class Ran:
    """What a run left behind. `lines` are those of logging.jsonl that belong to training steps."""

    folder: Path
    lines: list[dict[str, Any]]

    def column(self, name: str) -> list[float]:
        """A metric, one number for each logged step."""
        return [line[name] for line in self.lines]

    @property
    def losses(self) -> list[float]:
        """Loss of each logged step."""
        return self.column("loss")

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint."""
        return max(self.folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


def words(command: str, flags: Flags) -> list[str]:
    """The words of a command line: lists become several words, True and False the words that the command line takes."""
    found = [command]
    for name, value in (USUAL | flags).items():
        values = value if isinstance(value, list) else [value]
        found += [f"--{name}", *(str(one).lower() if isinstance(one, bool) else str(one) for one in values)]
    return found


def train(command: str, out: Path, *, curves: bool = False, **flags: Any) -> Ran:
    """Train in this process. `curves` draws the pictures too, which takes longer than the training."""
    from swiftlike.pipelines.train import run

    argv = words(command, {"output_dir": out, **flags})
    asked, _ = build_run(load(command), argv[1:], {})
    drawing = contextlib.nullcontext() if curves else mock.patch("swiftlike.trainers.observe.draw_curves")
    with drawing:
        trained = run(asked)
    assert trained is not None
    return read(trained.folder)


def read(folder: Path) -> Ran:
    """The results in a run folder."""
    with (folder / "logging.jsonl").open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    return Ran(folder, [line for line in lines if "loss" in line])


def same(one: Ran, other: Ran, *, relative: float = 1e-4, absolute: float = 1e-5) -> None:
    """The two runs logged the same steps and numbers; speed, memory and padding may differ."""
    assert len(one.lines) == len(other.lines) > 0
    for mine, theirs in zip(one.lines, other.lines, strict=True):
        left, right = ({key: value for key, value in line.items() if key not in APART} for line in (mine, theirs))
        assert left.pop("step") == right.pop("step")
        assert right == pytest.approx(left, rel=relative, abs=absolute)


def start(command: str, out: Path, *, processes: int = 1, **flags: Any) -> subprocess.Popen[str]:
    """Start the command in a process (or several) of its own; stdout and stderr are one text."""
    env = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    env["OMP_NUM_THREADS"] = "1"
    if processes > 1:
        env |= {"NPROC_PER_NODE": str(processes), "MASTER_PORT": str(free_port())}
    argv = [sys.executable, "-m", "swiftlike", *words(command, {"output_dir": out, **flags})]
    return subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, start_new_session=True
    )


def distributed(command: str, out: Path, *, processes: int = 2, **flags: Any) -> Ran:
    """Train in several processes and wait for them."""
    process = start(command, out, processes=processes, add_version=False, **flags)
    try:
        text, _ = process.communicate(timeout=300)
    finally:
        with contextlib.suppress(ProcessLookupError):  # nothing is left when all went well
            os.killpg(process.pid, 9)
    assert process.returncode == 0, text[-6000:]
    return read(out)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A JSON lines file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
