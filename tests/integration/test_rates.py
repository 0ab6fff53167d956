"""Learning rates of their own, the order of the data, and adapters in another type: flags that only training reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from swiftlike.cli.commands import load
from swiftlike.cli.layers import build_run
from swiftlike.pipelines import train
from swiftlike.pipelines.prepare import open_checkpoint
from swiftlike.pipelines.settings import derive, seeded

from .runs import words


def build_trainer(folder: Path, model: str, dataset: str, flags: dict[str, str]) -> object:
    """The trainer of a run, before its first step."""
    argv = words("rlhf", {"model": model, "dataset": dataset, "output_dir": folder, **flags})
    run = seeded(build_run(load("rlhf"), argv[1:], {})[0])
    card, checkpoint = train.loss_card(run), open_checkpoint(run, weights=False)
    data = train.read_data(run, checkpoint, card)
    return train.build(derive(run, data.pictures), checkpoint, card, data, folder)


def rates(trainer: object) -> dict[str, float]:
    """Parameter name to the learning rate it is trained with."""
    optimizer = trainer.create_optimizer()
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    named = {name: rate[id(p)] for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert len(rate) == len(named), "every trained parameter is in one group"
    return named


def test_tower_and_aligner_have_their_own_rates(tmp_path: Path) -> None:
    flags = {"sft_type": "full", "freeze_vit": "false", "freeze_aligner": "false", "learning_rate": "1e-3"}
    trainer = build_trainer(tmp_path, "tiny-llava1_6", "demo-vl#8", flags | {"vit_lr": "1e-5", "aligner_lr": "1e-4"})
    for name, rate in rates(trainer).items():
        expected = 1e-5 if ".vision_tower." in name else 1e-4 if "projector" in name or "newline" in name else 1e-3
        assert rate == expected, name


def test_lora_plus(tmp_path: Path) -> None:
    trainer = build_trainer(tmp_path, "tiny-llama", "demo#8", {"learning_rate": "1e-3", "lora_lr_ratio": "16"})
    found = rates(trainer)
    assert found
    for name, rate in found.items():
        assert rate == pytest.approx(1.6e-2 if "lora_B" in name else 1e-3), name


def test_rows_keep_their_order_when_asked(tmp_path: Path) -> None:
    trainer = build_trainer(tmp_path, "tiny-llama", "demo#8", {"dataset_shuffle": "false", "batch_size": "1"})
    sampler = trainer._get_train_sampler()
    assert [pick.index for pick in sampler] == list(range(8))


def test_lora_dtype(tmp_path: Path) -> None:
    trainer = build_trainer(tmp_path, "tiny-llama", "demo#8", {"lora_dtype": "bfloat16"})
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.bfloat16}
