"""Two processes do what one does: real torchrun, gloo, on a CPU."""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path

import pytest

from .runs import distributed, free_port, read, same, start, train

COMMON = {"learning_rate": 1e-3, "num_train_epochs": 2, "ref_logps": "live"}
OBJECTIVES = {
    "dpo": {"rlhf_type": "dpo", "rpo_alpha": 1, "dataset_test_ratio": 0.25},
    "dpo, streamed": {"rlhf_type": "dpo", "streaming": True, "max_steps": 6},
    "kto": {"rlhf_type": "kto"},
    "sft": {"lora_dropout": 0},
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_equal_one(name: str, pairs: Path, labelled: Path, tmp_path: Path) -> None:
    """19 rows, 8 a step: the second process gets nothing but filler at the end of an epoch."""
    flags = COMMON | OBJECTIVES[name] | {"dataset": labelled if name == "kto" else pairs, "model_type": "tiny-llama"}
    command = "sft" if name == "sft" else "rlhf"
    one = train(command, tmp_path / "one", **flags, batch_size=4, gradient_accumulation_steps=2)
    two = distributed(command, tmp_path / "two", **flags, batch_size=2, gradient_accumulation_steps=2)
    same(one, two)


TOWER = {"sft_type": "full", "freeze_vit": False, "freeze_aligner": False, "learning_rate": 1e-4}
VISION = {
    "lora": {"batch_size": 1},
    "lora on the tower": {"batch_size": 1, "lora_target_regex": r".*\.(q_proj|v_proj)"},
    "full": {"batch_size": 1, **TOWER},
    "full, accumulated": {"batch_size": 1, "gradient_accumulation_steps": 2, **TOWER},
}


@pytest.mark.parametrize("name", VISION)
def test_one_process_may_get_text_only_while_the_other_sees_pictures(name: str, mixed: Path, tmp_path: Path) -> None:
    """The process without a picture has to take part in the gradients of the tower, where it is trained."""
    flags = COMMON | {"rlhf_type": "dpo", "dataset": mixed, "model_type": "tiny-llava1_6"} | VISION[name]
    one = train("rlhf", tmp_path / "one", **flags | {"batch_size": 2})
    two = distributed("rlhf", tmp_path / "two", **flags)
    same(one, two)


def test_checkpoints_of_two_processes(labelled: Path, tmp_path: Path) -> None:
    """Rank 0 writes what is shared, every rank its own state. Training goes on from there as if never stopped, in the
    middle of the first epoch and in that of the second, which has another order."""
    flags = COMMON | {"rlhf_type": "kto", "dataset": labelled, "model_type": "tiny-llama", "batch_size": 4}
    flags |= {"logging_steps": 3}
    whole = distributed("rlhf", tmp_path / "whole", **flags, save_strategy="steps", save_steps=1, save_total_limit=9)
    assert [line["step"] for line in whole.lines] == ["1/6", "3/6", "6/6"]
    names = {path.name for path in (whole.folder / "checkpoint-2").iterdir()}
    assert {"adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "args.json", "swiftlike.json"} <= names
    for rank in (0, 1):
        assert {f"rng_state_{rank}.pth", f"objective_{rank}.pt"} <= names
    for step, logged in ((2, 1), (5, 2)):
        rest = distributed(
            "rlhf", tmp_path / f"{step}", **flags, resume_from_checkpoint=whole.folder / f"checkpoint-{step}"
        )
        same(rest, dc.replace(whole, lines=whole.lines[logged:]), relative=0, absolute=0)


def test_two_machines_equal_one(pairs: Path, tmp_path: Path) -> None:
    """Two commands that differ in NODE_RANK only, with a torchrun each, that meet at MASTER_ADDR. The second machine
    has a disk of its own: nothing of the run is written there."""
    flags = COMMON | {"rlhf_type": "dpo", "rpo_alpha": 1, "dataset": pairs, "model_type": "tiny-llama"}
    one = train("rlhf", tmp_path / "one", **flags, batch_size=4, gradient_accumulation_steps=2)
    meeting = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    machines = [
        start(
            "rlhf", tmp_path / f"machine_{rank}", environment=meeting | {"NODE_RANK": str(rank)}, add_version=False,
            save_strategy="steps", save_steps=3, **flags, batch_size=2, gradient_accumulation_steps=2,
        )
        for rank in (1, 0)
    ]  # fmt: skip
    texts = [machine.communicate(timeout=300)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], texts
    same(one, read(tmp_path / "machine_0"))


def test_machines_that_see_different_checkpoints_are_refused(pairs: Path, tmp_path: Path) -> None:
    """The second machine's disk has no checkpoint to begin at."""
    flags = COMMON | {"rlhf_type": "dpo", "dataset": pairs, "model_type": "tiny-llama", "batch_size": 2}
    first = train(
        "rlhf", tmp_path / "one", **flags | {"batch_size": 4}, save_strategy="steps", save_steps=1, save_total_limit=9
    )
    meeting = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    begin = [{"resume_from_checkpoint": first.folder / "checkpoint-2"}, {}]
    machines = [
        start("rlhf", tmp_path / str(rank), environment=meeting | {"NODE_RANK": str(rank)}, **flags, **begin[rank])
        for rank in (1, 0)
    ]
    texts = [machine.communicate(timeout=120)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [2, 2], texts
    assert "would begin at different checkpoints" in "".join(texts)
    assert not [path for rank in (0, 1) for path in (tmp_path / str(rank)).rglob("*") if path.is_file()]
