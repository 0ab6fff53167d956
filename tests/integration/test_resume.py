"""A run that was stopped and goes on is the run that was never stopped, to the last bit."""

from __future__ import annotations

import contextlib
import dataclasses as dc
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from swiftlike.core.errors import UserError

from .runs import Ran, Started, free_port, read, same, start, started_by, train, write_rows

COMMON = {
    "model_type": "tiny-llama",
    "max_steps": 8,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.1,
    "save_strategy": "steps",
    "save_total_limit": 9,
}
# 19 rows: 5 steps an epoch, so that step 4 is inside an epoch, step 5 at its end and step 8 in the next one
RUNS: dict[str, dict[str, Any]] = {
    "dpo": {"rlhf_type": "dpo"},
    "dpo, logged every 3 steps": {"rlhf_type": "dpo", "logging_steps": 3},
    "dpo, evaluated": {"rlhf_type": "dpo", "val_dataset": "demo:test#6", "eval_steps": 2},
    "dpo, from an epoch's end": {"rlhf_type": "dpo", "save_steps": 5},
    "dpo, accumulated": {"rlhf_type": "dpo", "batch_size": 2, "gradient_accumulation_steps": 2, "logging_steps": 5},
    "dpo, full": {"rlhf_type": "dpo", "sft_type": "full"},
    "simpo, live": {"rlhf_type": "simpo", "ref_logps": "live"},
    "beta-DPO, whose state is a class of its own": {"rlhf_type": "beta_dpo"},
    "kto": {"rlhf_type": "kto"},
    "dpo, streamed": {"rlhf_type": "dpo", "streaming": True, "shuffle_buffer_size": 6, "save_steps": 6},
    "kto, streamed": {"rlhf_type": "kto", "streaming": True},
    "sft with dropout": {"lora_dropout": 0.3},
    "sft with dropout, logged every 3 steps": {"lora_dropout": 0.3, "logging_steps": 3, "sft_type": "lora"},
    "sft with dropout and workers": {"lora_dropout": 0.3, "dataloader_num_workers": 2},
}


@pytest.mark.parametrize("name", RUNS)
def test_stopped_and_continued_equals_never_stopped(
    name: str, pairs: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = COMMON | {"dataset": labelled if "kto" in name else pairs, "batch_size": 4, "save_steps": 4} | RUNS[name]
    _stop_and_continue(flags, tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
def test_with_pictures(workers: int, tmp_path: Path) -> None:
    flags = COMMON | {"rlhf_type": "dpo", "model_type": "tiny-qwen2_5-vl", "dataset": "demo-vl#10", "batch_size": 4}
    _stop_and_continue(flags | {"dataloader_num_workers": workers, "save_steps": 4}, tmp_path)


def _stop_and_continue(flags: dict[str, Any], folder: Path) -> None:
    command = "rlhf" if "rlhf_type" in flags else "sft"
    whole = train(command, folder / "whole", **flags)
    where = whole.folder / f"checkpoint-{flags['save_steps']}"
    rest = train(command, folder / "rest", **flags, resume_from_checkpoint=where)
    first = next(n for n, line in enumerate(whole.lines) if int(line["step"].split("/")[0]) > flags["save_steps"])
    evaluations = [line for line in whole.evaluations if int(line["step"].split("/")[0]) > flags["save_steps"]]
    expected = dc.replace(whole, lines=whole.lines[first:], evaluations=evaluations)
    same(rest, expected, relative=0, absolute=0)
    assert rest.column("epoch") == expected.column("epoch")
    assert weights(rest.checkpoint) == weights(whole.checkpoint)


def weights(checkpoint: Path) -> dict[str, list[float]]:
    """Every trained number of a checkpoint."""
    from safetensors.torch import load_file

    (file,) = checkpoint.glob("*model.safetensors")
    return {name: weight.flatten().tolist() for name, weight in load_file(file).items()}


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A run of two steps with a checkpoint at each."""
    flags = COMMON | {"max_steps": 2, "save_steps": 1, "rlhf_type": "dpo", "dataset": pairs}
    return train("rlhf", tmp_path_factory.mktemp("stopped"), **flags)


def _continue(stopped: Ran, out: Path, data: Path, **more: Any) -> Ran:
    flags = COMMON | {"max_steps": 2, "rlhf_type": "dpo", "dataset": data, "resume_from_checkpoint": stopped.folder}
    flags["resume_from_checkpoint"] = stopped.folder / "checkpoint-1"
    return train("rlhf", out, **flags | more)


def test_other_data_is_refused(stopped: Ran, pairs: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    rows[7]["response"] += "!"
    other = write_rows(tmp_path / "other.jsonl", rows)
    for flags in ({"data": other}, {"data": pairs, "dataset_seed": 1}, {"data": pairs, "batch_size": 4}):
        with pytest.raises(UserError, match="was trained on other data") as caught:
            _continue(stopped, tmp_path, **flags)
        assert "--resume_only_model true" in str(caught.value)


def test_other_data_may_continue_from_the_weights_alone(stopped: Ran, tmp_path: Path) -> None:
    ran = _continue(stopped, tmp_path, "demo#8", resume_only_model=True)
    assert [line["step"] for line in ran.lines] == ["1/2", "2/2"]


def test_flipped_labels_are_other_data(labelled: Path, tmp_path: Path) -> None:
    flags = COMMON | {"rlhf_type": "kto", "max_steps": 2, "save_steps": 1}
    ran = train("rlhf", tmp_path, **flags, dataset=labelled)
    rows = [json.loads(line) for line in labelled.read_text().splitlines()]
    flipped = write_rows(tmp_path / "flipped.jsonl", [row | {"label": not row["label"]} for row in rows])
    with pytest.raises(UserError, match="was trained on other data"):
        train("rlhf", tmp_path, **flags, dataset=flipped, resume_from_checkpoint=ran.folder / "checkpoint-1")


def test_an_unfinished_checkpoint_is_refused(stopped: Ran, pairs: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(stopped.folder / "checkpoint-1", tmp_path / "checkpoint-1")
    (copy / "swiftlike.json").unlink()
    with pytest.raises(UserError, match="is not a whole checkpoint"):
        _continue(stopped, tmp_path, pairs, resume_from_checkpoint=copy)


# -- killed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["the process", "a rank", "the launcher"])
def test_a_killed_run_goes_on_from_its_last_whole_checkpoint(victim: str, pairs: Path, tmp_path: Path) -> None:
    from swiftlike.core.files import latest

    processes = 1 if victim == "the process" else 2
    flags = COMMON | {"rlhf_type": "dpo", "dataset": pairs, "max_steps": 40, "save_steps": 2, "report_to": "none"}
    killed = tmp_path / "killed"
    process = start("rlhf", killed, **flags, add_version=False, processes=processes, batch_size=8 // processes)
    deadline = time.monotonic() + 240
    while process.poll() is None and not (killed / "checkpoint-6").is_dir() and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(ranks(process)[1] if victim == "a rank" else process.pid, signal.SIGKILL)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == (137 if victim == "a rank" else -9), text
    while (left := started_by(process)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, "a process is left that trains for nobody"

    where = latest(killed)
    step = int(where.name.rpartition("-")[2])
    assert 2 <= step < 40
    rest = train("rlhf", tmp_path / "rest", **flags, resume_from_checkpoint=where)
    whole = train("rlhf", tmp_path / "whole", **flags)
    exact = {"relative": 0, "absolute": 0} if processes == 1 else {}
    same(rest, dc.replace(whole, lines=whole.lines[step:]), **exact)
    done = read(killed)
    same(done, dc.replace(whole, lines=whole.lines[: len(done.lines)]))


@pytest.mark.parametrize("saved", [True, False])
def test_processes_that_are_started_again_go_on(saved: bool, pairs: Path, tmp_path: Path) -> None:
    """MAX_RESTARTS: a rank is killed, and nobody has to do anything; without a checkpoint all begins anew."""
    flags = COMMON | {"rlhf_type": "dpo", "dataset": pairs, "max_steps": 30, "report_to": "none"}
    flags |= {"save_steps": 2, "save_strategy": "steps" if saved else "no"}
    out = tmp_path / "killed"
    many = {"processes": 2, "batch_size": 4, "environment": {"MAX_RESTARTS": "1"}}
    process = start("rlhf", out, **flags, **many, add_version=False)
    deadline = time.monotonic() + 240
    begun = out / ("checkpoint-6" if saved else "logging.jsonl")
    while process.poll() is None and not begun.exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(ranks(process)[1], signal.SIGKILL)
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 0, text
    assert ("restart 1: going on from" if saved else "restart 1: no checkpoint was saved yet") in text
    same(read(out), train("rlhf", tmp_path / "whole", **flags, batch_size=8))


def test_machines_start_again_together(pairs: Path, tmp_path: Path) -> None:
    """A rank of the second of two machines is killed: both torchruns start theirs again, from one checkpoint."""
    flags = COMMON | {"rlhf_type": "dpo", "dataset": pairs, "max_steps": 30, "report_to": "none", "save_steps": 2}
    shared = tmp_path / "shared"
    meeting = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "MAX_RESTARTS": "1"}
    machines = [
        start(
            "rlhf", shared, **flags, batch_size=4, add_version=False, environment=meeting | {"NODE_RANK": str(machine)}
        )
        for machine in (0, 1)
    ]
    deadline = time.monotonic() + 240
    while machines[1].poll() is None and not (shared / "checkpoint-6").exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    (victim,) = ranks(machines[1]).values()  # machines that may start again number themselves
    os.kill(victim, signal.SIGKILL)
    texts = [machine.communicate(timeout=240)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], texts
    assert "restart 1: going on from" in texts[0]
    same(read(shared), train("rlhf", tmp_path / "whole", **flags, batch_size=8))


def test_a_start_anew_does_not_take_another_runs_folder(pairs: Path, tmp_path: Path) -> None:
    """It is refused at the first start, and at those that MAX_RESTARTS makes of it."""
    flags = COMMON | {"rlhf_type": "dpo", "dataset": pairs, "max_steps": 2, "add_version": False}
    log = tmp_path / "logging.jsonl"
    log.write_text('{"step": "1/2", "loss": 0.5}\n')
    process = start("rlhf", tmp_path, **flags, environment={"MAX_RESTARTS": "1"})
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 2, text
    assert text.count("already holds a run") == 2
    assert log.read_text() == '{"step": "1/2", "loss": 0.5}\n'


def ranks(process: Started) -> dict[int, int]:
    """Process ids of the ranks that a launcher has started."""
    found = {}
    for pid in started_by(process):
        with contextlib.suppress(OSError):
            values = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            found |= {int(value.removeprefix(b"RANK=")): pid for value in values if value.startswith(b"RANK=")}
    return found
