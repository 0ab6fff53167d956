"""SIGTERM while a real process trains: it saves and leaves, and the run that goes on is the one never stopped."""

from __future__ import annotations

import dataclasses as dc
import os
import re
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from swiftlike.core.files import latest

from .runs import Ran, Started, distributed, read, same, start, started_by, train

SLOW = """
import time
from pathlib import Path
from transformers.trainer_callback import DefaultFlowCallback

usual = DefaultFlowCallback.on_step_begin


def slowly(self, args, state, control, **more):
    Path(args.output_dir, f"begun-{state.global_step + 1}").touch()
    time.sleep(SECONDS)
    return usual(self, args, state, control, **more)


DefaultFlowCallback.on_step_begin = slowly
"""
pytestmark = pytest.mark.usefixtures("plugins_go")
COMMON = {
    "model_type": "tiny-llama",
    "rlhf_type": "dpo",
    "max_steps": 12,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "save_strategy": "steps",
    "save_steps": 100,
    "logging_steps": 3,
}


@pytest.fixture
def slow(tmp_path: Path) -> Any:
    """A plugin with which a step takes so many seconds, and says when it begins."""

    def write(seconds: float) -> Path:
        path = tmp_path / "slow.py"
        path.write_text(SLOW.replace("SECONDS", str(seconds)), encoding="utf-8")
        return path

    return write


def wait_for(path: Path, process: Started) -> None:
    deadline = time.monotonic() + 240
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def stopped(process: Started) -> str:
    """What a process said that has saved and left."""
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 143, text
    assert "Traceback" not in text, text
    assert started_by(process) == []
    return text


def continued(text: str) -> list[str]:
    """The words of the command line that goes on."""
    (line,) = re.findall(r"swiftlike rlhf --resume_from_checkpoint .*", text)
    return shlex.split(line)


def goes_on_exactly(out: Path, whole: Ran, rest: Ran) -> None:
    """What was logged before the stop and after it is what the whole run logged."""
    before = read(out)
    assert 0 < len(before.lines) < len(whole.lines)
    same(before, dc.replace(whole, lines=whole.lines[: len(before.lines)]), relative=0, absolute=0)
    same(rest, dc.replace(whole, lines=whole.lines[len(before.lines) :]), relative=0, absolute=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_one_process_saves_and_leaves(workers: int, pairs: Path, slow: Any, tmp_path: Path) -> None:
    """All processes of the group are told, data loading too, as a scheduler does; in the middle of an epoch."""
    flags = COMMON | {"dataset": pairs, "batch_size": 4, "dataloader_num_workers": workers}
    out = tmp_path / "stopped"
    process = start("rlhf", out, **flags, plugin=slow(0.3), add_version=False)
    wait_for(out / "begun-4", process)
    for pid in (process.pid, *started_by(process)):
        os.kill(pid, signal.SIGTERM)
    text = stopped(process)
    words = continued(text)
    assert words[3] == str(latest(out))
    assert words[4:] == ["--output_dir", str(out), "--add_version", "false"]
    rest = train("rlhf", tmp_path / "rest", **flags, resume_from_checkpoint=words[3])
    goes_on_exactly(out, train("rlhf", tmp_path / "whole", **flags), rest)


def test_the_launcher_of_two_processes_passes_it_on(pairs: Path, slow: Any, tmp_path: Path) -> None:
    flags = COMMON | {"dataset": pairs, "batch_size": 2}
    out = tmp_path / "stopped"
    process = start("rlhf", out, processes=2, **flags, plugin=slow(0.3), add_version=False)
    wait_for(out / "begun-4", process)
    process.send_signal(signal.SIGTERM)
    words = continued(stopped(process))
    whole = distributed("rlhf", tmp_path / "whole", **flags)
    goes_on_exactly(out, whole, distributed("rlhf", tmp_path / "rest", **flags, resume_from_checkpoint=words[3]))


def test_one_rank_that_is_told_takes_the_others_along(pairs: Path, slow: Any, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    flags = COMMON | {"dataset": pairs, "batch_size": 2}
    process = start("rlhf", out, processes=2, **flags, plugin=slow(0.3), add_version=False)
    wait_for(out / "begun-4", process)
    second = next(pid for pid in started_by(process) if b"RANK=1" in Path(f"/proc/{pid}/environ").read_bytes())
    os.kill(second, signal.SIGTERM)
    assert continued(stopped(process))[3] == str(latest(out))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_second_one_ends_at_once(processes: int, pairs: Path, slow: Any, tmp_path: Path) -> None:
    flags = COMMON | {"dataset": pairs, "batch_size": 2}
    process = start("rlhf", tmp_path, processes=processes, **flags, plugin=slow(600), add_version=False)
    wait_for(tmp_path / "begun-1", process)
    process.send_signal(signal.SIGTERM)
    time.sleep(3)  # two at the same time count as one
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGTERM if processes == 1 else 143), text
    assert started_by(process) == []
    assert not list(tmp_path.glob("checkpoint-*"))
