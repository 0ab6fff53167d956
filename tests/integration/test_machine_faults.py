"""What machines do to a run: two at once in one folder, memory that ends, workers that die, clocks that jump."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swiftlike.core.errors import UserError
from swiftlike.core.files import latest, whole_checkpoints

from .runs import Started, read, same, start, started_by, train

pytestmark = pytest.mark.usefixtures("plugins_go")
COMMON = {"model_type": "tiny-llama", "rlhf_type": "dpo", "batch_size": 4, "save_strategy": "steps", "save_steps": 1}
GREEDY = """
import dataclasses as dc

import torch

from swiftlike.losses import LOSSES

DPO = LOSSES.get("dpo")
CALLS = []


def greedy(record, args):
    CALLS.append(1)
    if len(CALLS) % 3 == 0:
        torch.empty(1 << 50, dtype=torch.uint8)
    return DPO.fn(record, args)


LOSSES.add(dc.replace(DPO, name="greedy", fn=greedy))
"""
BACKWARDS = """
import time

usual, calls = time.time, []


def back():
    calls.append(1)
    return usual() - 3600.0 * len(calls)


time.time = back
"""
SLOW = """
import time
from transformers.trainer_callback import DefaultFlowCallback

usual = DefaultFlowCallback.on_step_begin


def slowly(self, *some, **more):
    time.sleep(0.5)
    return usual(self, *some, **more)


DefaultFlowCallback.on_step_begin = slowly
"""


def plugin(folder: Path, text: str) -> Path:
    path = folder / "plugin.py"
    path.write_text(text, encoding="utf-8")
    return path


def wait_for_a_checkpoint(folder: Path, process: Started) -> None:
    deadline = time.monotonic() + 240
    while not whole_checkpoints(folder):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


# -- two runs, one folder ---------------------------------------------------------------------------------------------


def test_a_folder_is_written_by_one_run_at_a_time(pairs: Path, tmp_path: Path) -> None:
    """Also by one that would go on there. The lock ends with its process, workers that outlive it or not."""
    out, flags = tmp_path / "out", COMMON | {"dataset": pairs, "add_version": False}
    slow = flags | {
        "max_steps": 200,
        "save_total_limit": 999,
        "plugin": plugin(tmp_path, SLOW),
        "dataloader_num_workers": 2,
    }
    process = start("rlhf", out, **slow)
    try:
        wait_for_a_checkpoint(out, process)
        for more in ({}, {"resume_from_checkpoint": latest(out)}):
            with pytest.raises(UserError, match=rf"process {process.pid} on .* is writing {out}") as caught:
                train("rlhf", out, **flags | more, max_steps=200)
            assert "--output_dir" in caught.value.hint
    finally:
        process.kill()
        process.communicate()
    done = int(latest(out).name.rpartition("-")[2])
    rest = train("rlhf", out, **flags, resume_from_checkpoint=latest(out), max_steps=done + 1)
    assert rest.lines[-1]["step"] == f"{done + 1}/{done + 1}"


# -- memory -----------------------------------------------------------------------------------------------------------


def test_memory_that_ends_says_what_needs_less(pairs: Path, tmp_path: Path) -> None:
    """The third step wants a pebibyte."""
    flags = COMMON | {"rlhf_type": "greedy", "plugin": plugin(tmp_path, GREEDY), "dataset": pairs, "max_steps": 4}
    with pytest.raises(UserError, match=r"out of memory: .*you tried to allocate 1125899906842624 bytes") as caught:
        train("rlhf", tmp_path / "out", **flags, add_version=False)
    words = " ".join(caught.value.problems)
    assert "--batch_size 2 --gradient_accumulation_steps 2" in words
    assert "--max_length" in words
    assert caught.value.hint.startswith(f"the newest whole checkpoint is {tmp_path / 'out' / 'checkpoint-2'}")
    assert sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    with pytest.raises(UserError, match="out of memory"):  # in the middle of its first step
        train("rlhf", tmp_path / "first", **flags | {"gradient_accumulation_steps": 4, "batch_size": 1})
    assert not list((tmp_path / "first").glob("*/v*"))


# -- workers ----------------------------------------------------------------------------------------------------------


def test_a_worker_that_dies_ends_the_run_with_its_reason(pairs: Path, tmp_path: Path) -> None:
    flags = COMMON | {"dataset": pairs, "max_steps": 200, "dataloader_num_workers": 2, "add_version": False}
    process = start("rlhf", tmp_path / "out", **flags, plugin=plugin(tmp_path, SLOW))
    wait_for_a_checkpoint(tmp_path / "out", process)
    os.kill(max(started_by(process)), signal.SIGKILL)
    try:
        text, _ = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 2, text
    assert "a process that loads data has died" in text
    assert f"the newest whole checkpoint is {latest(tmp_path / 'out')}" in text
    assert "Traceback" not in text
    assert started_by(process) == []


# -- clocks -----------------------------------------------------------------------------------------------------------


def test_a_clock_that_runs_backwards_changes_no_figure(pairs: Path, tmp_path: Path) -> None:
    flags = COMMON | {"dataset": pairs, "max_steps": 4, "save_total_limit": 1, "add_version": False}
    process = start("rlhf", tmp_path / "out", **flags, plugin=plugin(tmp_path, BACKWARDS))
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 0, text
    ran = read(tmp_path / "out")
    assert ran.column("elapsed_s") == sorted(ran.column("elapsed_s"))
    assert all(0 <= line["remaining_s"] < 240 and line["tokens_per_s"] > 0 for line in ran.lines)
    assert [path.name for path in whole_checkpoints(tmp_path / "out")] == ["checkpoint-4"]
    same(ran, train("rlhf", tmp_path / "usual", **flags), relative=0, absolute=0)


# -- a cache that cannot be written -----------------------------------------------------------------------------------


@pytest.fixture
def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Make a folder the cache, one that nothing can be written to, not even by root."""
    folder = tmp_path / "cache"
    folder.mkdir()
    run = subprocess.run(["mount", "--bind", os.environ["SWIFTLIKE_CACHE"], str(folder)], capture_output=True)
    if run.returncode:
        pytest.skip("only root may mount a folder")
    subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
    monkeypatch.setenv("SWIFTLIKE_CACHE", str(folder))
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_read_only_cache_costs_time_and_nothing_else(
    read_only: Path, pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = {"model_type": "tiny-llama", "rlhf_type": "dpo", "dataset": pairs, "num_train_epochs": 2, "beta": 0.3}
    ran = train("rlhf", tmp_path / "ran", **flags)
    assert "reference log-probabilities are not kept" in caplog.text
    same(ran, train("rlhf", tmp_path / "live", **flags, ref_logps="live"))
