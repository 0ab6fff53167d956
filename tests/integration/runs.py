"""Training runs as tests start them: through the command line's own parser, in this process or in one of their own."""

from __future__ import annotations

import contextlib
import dataclasses as dc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import uuid
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
APART = re.compile(r".*(_s|_per_second|_runtime)|padding|memory_gib|epoch").fullmatch  # epoch: counted in batches
MARK = "STARTED_BY_TEST"
Flags = dict[str, Any]


class Started(subprocess.Popen[str]):
    """A command on its way. `mark` is in the environment of all its processes."""

    mark: str


@dc.dataclass(frozen=True)
class Ran:
    """What a run left behind: the lines of logging.jsonl that belong to training steps, and those of evaluations."""

    folder: Path
    lines: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]

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
    return Ran(folder, [line for line in lines if "loss" in line], [line for line in lines if "eval_loss" in line])


def same(one: Ran, other: Ran, *, relative: float = 1e-4, absolute: float = 1e-5) -> None:
    """The two runs logged the same steps and numbers; speed, memory and padding may differ."""
    assert len(one.lines) == len(other.lines) > 0
    for mine, theirs in zip((*one.lines, *one.evaluations), (*other.lines, *other.evaluations), strict=True):
        left, right = ({key: value for key, value in line.items() if not APART(key)} for line in (mine, theirs))
        assert left.pop("step") == right.pop("step")
        assert right == pytest.approx(left, rel=relative, abs=absolute)


def start(
    command: str, out: Path, *, processes: int = 1, environment: dict[str, str] | None = None, **flags: Any
) -> Started:
    """Start the command in a process (or several) of its own; stdout and stderr are one text."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SWIFTLIKE_", "HF_"))}
    env |= {"SWIFTLIKE_CACHE": os.environ["SWIFTLIKE_CACHE"]}
    env |= {"OMP_NUM_THREADS": "1", MARK: (mark := uuid.uuid4().hex)}
    if processes > 1:
        env |= {"NPROC_PER_NODE": str(processes)}
    env |= environment or {}
    argv = [sys.executable, "-m", "swiftlike", *words(command, {"output_dir": out, **flags})]
    process = Started(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    process.mark = mark
    return process


def distributed(command: str, out: Path, *, processes: int = 2, **flags: Any) -> Ran:
    """Train in several processes and wait for them."""
    process = start(command, out, processes=processes, add_version=False, **flags)
    try:
        text, _ = process.communicate(timeout=300)
        left = started_by(process)
    finally:
        for pid in (process.pid, *started_by(process)):
            with contextlib.suppress(ProcessLookupError):  # nothing is left when all went well
                os.kill(pid, signal.SIGKILL)
    assert process.returncode == 0, text[-6000:]
    assert left == []
    return read(out)


def started_by(process: Started) -> list[int]:
    """Running processes that descend from `start`, whatever happened to those between: the mark is inherited."""
    mark, found = f"{MARK}={process.mark}".encode(), []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in environment.read_bytes().split(b"\0") and int(environment.parent.name) != process.pid:
                found.append(int(environment.parent.name))
    return found


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A JSON lines file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
