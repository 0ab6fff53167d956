"""What flags leave open, and what becomes of them in transformers' own arguments."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer

from swiftlike.cli.commands import load
from swiftlike.cli.layers import build_run
from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run
from swiftlike.pipelines.settings import (
    derive,
    interval,
    seeded,
    spaced_steps,
    total_steps,
    training_arguments,
)
from swiftlike.pipelines.sharding import deepspeed_config, engine, fsdp_config, refuse_without_cards


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "")  # put back after the test
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def asked(*words: str, command: str = "rlhf") -> Run:
    return build_run(load(command), ["--model", "tiny-llama", "--dataset", "x", *words], {})[0]


def decided(*words: str, command: str = "rlhf", pictures: bool = False) -> Run:
    return derive(seeded(asked(*words, command=command)), pictures)


# -- what is left open -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["sft", "rlhf"])
def test_defaults_of_ms_swift_2_6(command: str) -> None:
    lora, full = decided(command=command), decided("--sft_type", "full", command=command)
    assert (lora.train.learning_rate, full.train.learning_rate) == (1e-4, 1e-5)
    assert (lora.train.eval_steps, full.train.eval_steps) == (50, 200)
    assert (lora.train.save_steps, full.train.save_steps) == (50, 200)
    for run in (lora, full):
        train, tuner = run.train, run.tuner
        assert (train.batch_size, train.eval_batch_size, train.gradient_accumulation_steps) == (1, 1, 16)
        assert (train.num_train_epochs, train.max_steps, train.lr_scheduler_type) == (1, -1, "cosine")
        assert (train.warmup_ratio, train.weight_decay, train.max_grad_norm) == (0.05, 0.1, 1.0)
        assert (train.adam_beta1, train.adam_beta2, train.adam_epsilon) == (0.9, 0.95, 1e-8)
        assert (train.logging_steps, train.logging_first_step, train.save_total_limit) == (5, True, 2)
        assert (tuner.lora_rank, tuner.lora_alpha, tuner.lora_dropout) == (8, 32, 0.05)
        assert (run.data.dataset_test_ratio, run.data.dataset_seed, train.seed) == (0.01, 42, 42)
        assert train.gradient_checkpointing
    assert lora.origin["learning_rate"] == "derived"


@pytest.mark.parametrize(
    ("batch", "ranks", "wanted"), [(1, 1, 16), (4, 1, 4), (3, 1, 6), (2, 4, 2), (16, 1, 1), (32, 2, 1)]
)
def test_accumulation_fills_a_step(batch: int, ranks: int, wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    found = decided("--batch_size", str(batch)).train.gradient_accumulation_steps
    assert found == wanted
    assert batch * ranks * found >= 16
    assert found == 1 or batch * ranks * (found - 1) < 16
    assert (
        decided("--batch_size", str(batch), "--gradient_accumulation_steps", "3").train.gradient_accumulation_steps == 3
    )


def test_what_is_given_stays() -> None:
    flags = {"learning_rate": 3e-6, "eval_steps": 7, "eval_batch_size": 5, "torch_dtype": "bfloat16", "seed": 3}
    run = decided(*(word for name, value in flags.items() for word in (f"--{name}", str(value))))
    assert {name: run.flags()[name] for name in flags} == flags
    assert run.train.save_steps == 7  # follows --eval_steps
    assert run.data.dataset_seed == 3  # follows --seed
    assert decided("--seed", "3", "--dataset_seed", "5").data.dataset_seed == 5
    assert decided("--eval_steps", "7", "--save_steps", "14").train.save_steps == 14
    assert derive(run, False).flags() == run.flags()  # deciding twice changes nothing


def test_dtype_of_a_machine_without_cards() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has cards")
    assert decided().model.torch_dtype == "float32"


@pytest.mark.parametrize(
    ("pictures", "words", "wanted"),
    [
        (False, [], 0),
        (True, [], 1),
        (False, ["--dataloader_num_workers", "3"], 3),
        (True, ["--streaming", "true", "--max_steps", "5"], 0),
    ],
)
def test_workers_only_where_they_have_work(pictures: bool, words: list[str], wanted: int) -> None:
    assert decided(*words, pictures=pictures).train.dataloader_num_workers == wanted


# -- steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "steps", "wanted"), [(50, 7, 50), (0.2, 50, 10), (0.2, 7, 2), (0.01, 7, 1), (1, 9, 1)]
)
def test_interval(value: float, steps: int, wanted: int) -> None:
    assert interval(value, steps) == wanted


@pytest.mark.parametrize(
    ("count", "steps", "wanted"), [(3, 7, (2, 4, 7)), (4, 8, (2, 4, 6, 8)), (1, 5, (5,)), (5, 5, (1, 2, 3, 4, 5))]
)
def test_checkpoints_are_evenly_spaced(count: int, steps: int, wanted: tuple[int, ...]) -> None:
    words = ("--num_save_checkpoint", str(count), "--batch_size", "2", "--gradient_accumulation_steps", "4")
    run = decided(*words)
    assert spaced_steps(run, 8 * steps - 3) == wanted
    assert spaced_steps(decided(*words, "--max_steps", str(steps)), 1000) == wanted
    assert run.train.save_total_limit is None  # all are kept
    with pytest.raises(UserError, match=f"{steps + 1}: this run has {steps} optimiser steps only"):
        spaced_steps(run.replace("test", num_save_checkpoint=steps + 1), 8 * steps)
    assert spaced_steps(decided("--max_steps", "5"), 8) == ()


class Line(torch.nn.Module):
    """The smallest thing that a Trainer trains."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.weight * x).sum()}


@pytest.mark.parametrize(
    ("rows", "batch", "accumulation", "epochs", "limit"),
    [
        (16, 2, 4, "1", -1),
        (17, 2, 4, "2", -1),  # a short batch and a short step in every epoch
        (3, 1, 16, "3", -1),
        (20, 3, 2, "0.5", -1),
        (20, 1, 4, "1.3", -1),
        (9, 2, 2, "5", 4),
    ],
)
def test_steps_are_those_that_the_trainer_makes(
    rows: int, batch: int, accumulation: int, epochs: str, limit: int, tmp_path: Path
) -> None:
    flags = {"batch_size": batch, "gradient_accumulation_steps": accumulation, "num_train_epochs": epochs}
    flags |= {"max_steps": limit, "report_to": "none", "save_strategy": "no", "gradient_checkpointing": "false"}
    run = decided(*(word for name, value in flags.items() for word in (f"--{name}", str(value))))
    steps = total_steps(run, rows)
    data = [{"x": torch.ones(1)}] * rows
    trainer = Trainer(Line(), training_arguments(run, tmp_path, steps, False, False), train_dataset=data)
    assert trainer.train().global_step == trainer.state.max_steps == steps


def test_steps_over_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    run = decided("--batch_size", "2", "--gradient_accumulation_steps", "2")
    assert [total_steps(run, rows) for rows in (1, 8, 9)] == [1, 2, 3]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert [total_steps(run, rows) for rows in (1, 8, 9)] == [1, 1, 2]


# -- TrainingArguments -----------------------------------------------------------------------------------------------


def arguments(tmp_path: Path, *words: str, steps: int = 100, evaluates: bool = True) -> Any:
    return training_arguments(decided("--report_to", "none", *words), tmp_path, steps, evaluates, False)


def test_flags_arrive(tmp_path: Path) -> None:
    flags = {"learning_rate": 3e-6, "weight_decay": 0.3, "adam_beta2": 0.9, "max_grad_norm": 0.5, "seed": 9}
    flags |= {"lr_scheduler_type": "linear", "logging_steps": 3, "save_total_limit": 4, "num_train_epochs": 2.5}
    made = arguments(tmp_path, *(word for name, value in flags.items() for word in (f"--{name}", str(value))))
    assert {name: getattr(made, name) for name in flags} == flags
    assert made.output_dir == str(tmp_path)
    assert (made.per_device_train_batch_size, made.gradient_accumulation_steps) == (1, 16)
    assert made.data_seed == 9
    assert made.remove_unused_columns is False
    assert not (made.bf16 or made.fp16) or torch.cuda.is_available()


def test_curves_of_every_run_are_in_its_own_folder(tmp_path: Path) -> None:
    for name in ("first", "second"):
        arguments(tmp_path / name)
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / name / "runs")


def test_other_training_arguments_arrive(tmp_path: Path) -> None:
    assert arguments(tmp_path, "--adam_beta1", "0.8", "--torch_empty_cache_steps", "7").torch_empty_cache_steps == 7


def test_shares_of_the_run(tmp_path: Path) -> None:
    made = arguments(tmp_path, "--eval_steps", "0.25", "--warmup_ratio", "0.031", steps=100)
    assert (made.eval_steps, made.save_steps, made.warmup_steps) == (25, 25, math.ceil(3.1))
    assert arguments(tmp_path, "--warmup_steps", "7").warmup_steps == 7


def test_without_validation_rows_nothing_is_evaluated(tmp_path: Path) -> None:
    assert arguments(tmp_path, evaluates=False).eval_strategy == "no"
    assert arguments(tmp_path, evaluates=True).eval_strategy == "steps"


@pytest.mark.parametrize("on", [True, False])
def test_recomputation(tmp_path: Path, on: bool) -> None:
    made = arguments(tmp_path, "--gradient_checkpointing", str(on).lower())
    name = "activation_checkpointing" if hasattr(made, "activation_checkpointing") else "gradient_checkpointing"
    assert getattr(made, name) is on
    assert getattr(made, f"{name}_kwargs") == {"use_reentrant": False, "every_n_layers": 1, "offload": False}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_offloaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--activation_offloading"):
        arguments(tmp_path, "--activation_offloading", "true")


def test_what_transformers_refuses_is_one_line(tmp_path: Path) -> None:
    words = ("--load_best_model_at_end", "--eval_steps", "0.1", "--save_steps", "0.2")  # 2 and 3 of 15 steps
    with pytest.raises(UserError, match="multiple of the evaluation steps") as caught:
        arguments(tmp_path, *words, steps=15)
    assert "\n" not in str(caught.value)


def test_half_precision_without_a_card(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has cards")
    with pytest.raises(UserError, match="needs a GPU"):
        arguments(tmp_path, "--torch_dtype", "float16")
    assert arguments(tmp_path, "--torch_dtype", "bfloat16").bf16


# -- engines ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stage", "moved"),
    [
        ("zero0", 0, set()),
        ("zero1", 1, set()),
        ("zero2", 2, set()),
        ("zero3", 3, set()),
        ("zero2_offload", 2, {"offload_optimizer"}),
        ("zero3_offload", 3, {"offload_optimizer", "offload_param"}),
    ],
)
def test_deepspeed_presets(name: str, stage: int, moved: set[str]) -> None:
    made = deepspeed_config(name, 0.7)
    zero = made["zero_optimization"]
    assert zero["stage"] == stage
    assert {key for key in zero if key.startswith("offload")} == moved
    assert ("stage3_gather_16bit_weights_on_model_save" in zero) == (stage == 3)
    assert made["gradient_clipping"] == 0.7  # DeepSpeed's own default is 1.0
    automatic = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    assert {made[key] for key in automatic} == {"auto"}
    json.dumps(made)


def test_deepspeed_files(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text("{}")
    assert engine(asked("--deepspeed", str(path), "--dry_run")) == {"deepspeed": str(path)}


@pytest.mark.parametrize(("old", "new"), [("default-zero2", "zero2"), ("zero3-offload", "zero3_offload")])
def test_ms_swift_names_of_presets(old: str, new: str) -> None:
    assert engine(asked("--deepspeed", old, "--dry_run")) == {"deepspeed": deepspeed_config(new, 1.0)}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_offloading_by_fsdp_wants_a_card() -> None:
    refuse_without_cards(asked("--fsdp", "full_shard").train)
    refuse_without_cards(asked("--fsdp", "full_shard offload", "--dry_run").train)
    with pytest.raises(UserError, match="needs a card"):
        refuse_without_cards(asked("--fsdp", "full_shard offload").train)


WHOLE = {"version": 2, "reshard_after_forward": True}


def test_fsdp() -> None:
    assert engine(asked()) == {}
    assert engine(asked("--fsdp", "fsdp2")) == {"fsdp": True, "fsdp_config": WHOLE}
    assert fsdp_config("full_shard auto_wrap") == WHOLE
    assert fsdp_config("shard_grad_op offload") == WHOLE | {"reshard_after_forward": False, "cpu_offload": True}
