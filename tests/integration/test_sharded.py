"""DeepSpeed and FSDP2 train on two processes what one process trains, and anybody can go on from what they save."""

from __future__ import annotations

import dataclasses as dc
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from .runs import Ran, distributed, same, train, write_rows

ENGINES = {
    "zero1": {"deepspeed": "zero1"},
    "zero2": {"deepspeed": "zero2"},
    "zero3": {"deepspeed": "zero3"},
    "zero2_offload": {"deepspeed": "zero2_offload"},
    "zero3_offload": {"deepspeed": "zero3_offload"},
    "fsdp2": {"fsdp": "full_shard"},
}
USUAL = {"model_type": "tiny-llama", "learning_rate": 1e-3, "max_steps": 20, "batch_size": 4}
FULL = {"sft_type": "full", "learning_rate": 1e-4}
PICTURES = {"model_type": "tiny-llava1_6", "batch_size": 2, "dataset_shuffle": False}
TASKS: dict[str, dict[str, Any]] = {
    "dpo": {"rlhf_type": "dpo", "ref_logps": "live"},
    "dpo, full": {"rlhf_type": "dpo", **FULL},
    "kto": {"rlhf_type": "kto"},
    "beta_dpo": {"rlhf_type": "beta_dpo"},
    "reward model": {"rlhf_type": "rm"},
    "reward model, full": {"rlhf_type": "rm", **FULL},
    "pictures": {"rlhf_type": "dpo", **PICTURES},
    "pictures, full": {
        "rlhf_type": "dpo",
        **PICTURES,
        **FULL,
        "freeze_vit": False,
        "freeze_aligner": False,
    },
}
MARGIN = "rewards/margins"
CASES = [
    *[(engine, task) for engine in ("zero3", "fsdp2") for task in TASKS],
    *[(engine, task) for engine in ("zero1", "zero2") for task in ("dpo", "dpo, full", "pictures")],
    *[(engine, task) for engine in ("zero2_offload", "zero3_offload") for task in ("dpo", "dpo, full")],
]
CHECKPOINTS = [
    *[(engine, task) for engine in ("zero2", "zero3", "fsdp2") for task in ("dpo", "dpo, full", "reward model, full")],
    *[(engine, "dpo, full") for engine in ("zero1", "zero2_offload", "zero3_offload")],
]


def flags_of(task: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Those of one process; 19 rows, so that a step at the end of an epoch is not full."""
    rows = "every_second" if "pictures" in task else "labelled" if task == "kto" else "pairs"
    return USUAL | {"dataset": request.getfixturevalue(rows)} | TASKS[task]


@pytest.fixture(scope="module")
def every_second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 pairs, every second one with a picture: one process sees pictures, the other never. In a step without any, the
    tower of a sharded model gets a gradient of zero, and that of another model none, which is another Adam step."""
    folder = tmp_path_factory.mktemp("rows")
    rows = []
    for number in range(8):
        row = {"query": f"What is number {number}?", "response": f"It is {number}.", "rejected_response": "No idea."}
        if number % 2:
            Image.new("RGB", (64, 64 + 32 * (number % 4)), (30 * number, 200, 90)).save(folder / f"{number}.png")
            row |= {"query": "<image>" + row["query"], "images": [f"{number}.png"]}
        rows.append(row)
    return write_rows(folder / "rows.jsonl", rows)


@pytest.fixture(scope="module")
def alone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A task's run in one process."""
    found: dict[str, Ran] = {}

    def run(task: str) -> Ran:
        if task not in found:
            found[task] = train("rlhf", tmp_path_factory.mktemp("alone"), **flags_of(task, request))
        return found[task]

    return run


@pytest.mark.parametrize(("engine", "task"), CASES)
def test_sharded_equals_alone(
    engine: str, task: str, alone: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    skip_without(engine)
    flags = flags_of(task, request) | ENGINES[engine]
    flags |= {"batch_size": flags["batch_size"] // 2}
    same(settled(alone(task)), settled(distributed("rlhf", tmp_path / "sharded", **flags)))


def skip_without(engine: str) -> None:
    """Skip where the engine lacks what it needs."""
    if "zero" in engine:
        pytest.importorskip("deepspeed")
    if "offload" in engine and not shutil.which("c++"):
        pytest.skip("DeepSpeed's Adam for the computer's memory wants a C++ compiler")


def settled(ran: Ran) -> Ran:
    """Without the accuracy of margins that are zero but for rounding."""
    lines = [
        {
            name: value
            for name, value in line.items()
            if name != "rewards/accuracies" or abs(line["rewards/margins"]) > 1e-5
        }
        for line in ran.lines
    ]
    return dc.replace(ran, lines=lines)


@pytest.mark.parametrize(("engine", "task"), CHECKPOINTS)
def test_a_checkpoint_goes_on_in_its_engine_and_in_one_process(
    engine: str, task: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    skip_without(engine)
    flags = flags_of(task, request) | {"max_steps": 4}
    saving = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 9}
    two = flags | ENGINES[engine] | {"batch_size": 2}
    whole = distributed("rlhf", tmp_path / "whole", **two, **saving)
    middle = whole.folder / "checkpoint-2"
    rest = distributed("rlhf", tmp_path / "rest", **two, resume_from_checkpoint=middle)
    same(rest, dc.replace(whole, lines=whole.lines[2:]), relative=1e-6, absolute=1e-6)
    one = train("rlhf", tmp_path / "one", **flags, **saving)
    go_on = {"resume_only_model": True, "max_steps": 2}
    same(
        train("rlhf", tmp_path / "from_one", **flags | go_on, resume_from_checkpoint=one.folder / "checkpoint-2"),
        train("rlhf", tmp_path / "from_sharded", **flags | go_on, resume_from_checkpoint=middle),
    )
