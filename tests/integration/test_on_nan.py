"""Steps whose loss or gradient is not finite: stopped and explained, or left out without a trace on all ranks."""

from __future__ import annotations

import dataclasses as dc
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from swiftlike.core.errors import UserError

from .runs import Ran, distributed, same, train, write_rows

# `spoilt` is DPO whose loss is not a number where the chosen answer is long; `steep` has no finite gradient there.
PLUGIN = """
import dataclasses as dc

import torch

from swiftlike.losses import LOSSES
from swiftlike.losses.base import Loss

DPO = LOSSES.get("dpo")


def spoilt(record, args) -> Loss:
    loss = DPO.fn(record, args)
    return dc.replace(loss, rows=loss.rows * torch.where(record.tokens[:, 0] > 40, float("nan"), 1.0))


def steep(record, args) -> Loss:
    loss = DPO.fn(record, args)
    zero = (record.policy[:, 0] - record.policy[:, 0].detach()).abs()
    return dc.replace(loss, rows=loss.rows + zero[record.tokens[:, 0] > 40].sqrt().sum())


for fn in (spoilt, steep):
    LOSSES.add(dc.replace(DPO, name=fn.__name__, fn=fn))
"""
pytestmark = pytest.mark.usefixtures("plugins_go")
COMMON = {
    "model_type": "tiny-llama",
    "rlhf_type": "spoilt",
    "max_steps": 5,
    "learning_rate": 1e-3,
    "weight_decay": 0.1,
    "dataset_shuffle": False,
    "save_strategy": "steps",
    "save_steps": 1,
    "save_total_limit": 9,
    "batch_size": 4,
}


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """20 pairs in 5 steps; rows 10 and 11, in the third step, are the ones that spoil it."""
    folder = tmp_path_factory.mktemp("spoilt")
    rows = [
        {
            "query": f"What is {n}?",
            "response": f"It is {n}." + " So." * (60 * (n in (9, 10))),
            "rejected_response": "No",
        }
        for n in range(20)
    ]
    (folder / "plugin.py").write_text(PLUGIN, encoding="utf-8")
    return COMMON | {"plugin": folder / "plugin.py", "dataset": write_rows(folder / "rows.jsonl", rows)}


@pytest.mark.parametrize("name", ["spoilt", "steep"])
def test_the_run_stops_and_names_step_and_rows(name: str, flags: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        train("rlhf", tmp_path, **flags | {"rlhf_type": name}, add_version=False)
    what = "the loss is not finite" if name == "spoilt" else "the loss is finite, but its gradient is not"
    assert caught.value.message == f"step 3: {what}; rows:"
    named = [problem.rpartition(":")[2] for problem in caught.value.problems]
    assert sorted(named) == (["10", "11"] if name == "spoilt" else ["10", "11", "12", "9"])
    assert all(str(flags["dataset"]) in problem for problem in caught.value.problems)
    assert "--on_nan skip" in caught.value.hint
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]


@pytest.fixture(scope="module")
def skipped(flags: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return train("rlhf", tmp_path_factory.mktemp("skipped"), **flags, on_nan="skip", add_version=False)


def state(folder: Path) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """Weights and optimiser moments of a checkpoint."""
    moments = torch.load(folder / "optimizer.pt")["state"]
    weights = load_file(folder / "adapter_model.safetensors")
    return weights, [moments[one][name] for one in sorted(moments) for name in sorted(moments[one])]


def test_a_skipped_step_changes_nothing_and_the_others_go_on(skipped: Ran) -> None:
    (before, moments), (after, still) = (state(skipped.folder / f"checkpoint-{n}") for n in (2, 3))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(map(torch.equal, moments, still))
    later, moved = state(skipped.folder / "checkpoint-4")
    assert not all(torch.equal(later[name], after[name]) for name in after)
    assert all(tensor.isfinite().all() for tensor in [*later.values(), *moved])


def test_it_is_counted(skipped: Ran) -> None:
    lines = [json.loads(line) for line in (skipped.folder / "logging.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "learning_rate" in line]
    assert [line.get("skipped_steps") for line in steps] == [None, None, 1, 1, 1]
    assert ["loss" in line for line in steps] == [True, True, False, True, True]
    assert "NaN" not in (skipped.folder / "logging.jsonl").read_text()


def test_the_log_says_which(flags: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Logged every five steps, the loss is the mean of the four steps that were made."""
    caplog.set_level(logging.WARNING, "swiftlike")
    ran = train(
        "rlhf", tmp_path, **flags | {"logging_steps": 5, "max_steps": 5}, on_nan="skip", logging_first_step=False
    )
    each = train("rlhf", tmp_path / "each", **flags, on_nan="skip")
    assert ran.losses == [pytest.approx(sum(each.losses) / 4, rel=1e-5)]
    assert len(each.losses) == 4
    assert ran.lines[0]["skipped_steps"] == 1
    assert "step 3: the loss is not finite; it is skipped" in caplog.text
    assert f"{flags['dataset']}:10" in caplog.text


def test_only_one_micro_batch_of_the_step_is_spoilt(skipped: Ran, flags: dict[str, Any], tmp_path: Path) -> None:
    parts = {"batch_size": 1, "gradient_accumulation_steps": 4}
    same(skipped, train("rlhf", tmp_path, **flags | parts, on_nan="skip"))


def test_only_one_of_two_ranks_is_spoilt(skipped: Ran, flags: dict[str, Any], tmp_path: Path) -> None:
    parts = {"batch_size": 1, "gradient_accumulation_steps": 2}
    same(skipped, distributed("rlhf", tmp_path, **flags | parts, on_nan="skip"))


def test_the_run_that_goes_on_counts_on(skipped: Ran, flags: dict[str, Any], tmp_path: Path) -> None:
    more = flags | {"resume_from_checkpoint": skipped.folder / "checkpoint-3", "on_nan": "skip"}
    rest = train("rlhf", tmp_path, **more)
    same(rest, dc.replace(skipped, lines=skipped.lines[2:]), relative=0, absolute=0)


def test_weights_that_are_spoilt_end_the_run(flags: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"query": f"{n}?", "response": "So. " * 60, "rejected_response": "No"} for n in range(8)]
    bad = {"dataset": write_rows(tmp_path / "bad.jsonl", rows), "max_steps": 20, "save_strategy": "no"}
    with pytest.raises(UserError, match="step 10: the loss is not finite") as caught:
        train("rlhf", tmp_path, **flags | bad, on_nan="skip")
    assert "10 steps in a row" in caught.value.hint
