"""The plan counts what is then really built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import families
import pytest

from swiftlike.cli.commands import load
from swiftlike.cli.layers import build_run
from swiftlike.core.merge import Run
from swiftlike.losses import LOSSES
from swiftlike.losses.base import LossCard
from swiftlike.pipelines.plan import Plan, amount, as_json, headline, make_plan
from swiftlike.pipelines.prepare import Checkpoint, open_checkpoint
from swiftlike.pipelines.settings import derive, seeded
from swiftlike.pipelines.train import policy, read_data

PAIRS = [
    {"query": f"What is {n}?" + " Be brief." * n, "response": "It is " * (n + 1), "rejected_response": "No."}
    for n in range(5)
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name in ("llama", "gemma", "qwen2_5_vl", "llava"):
        families.save(name, root / name)
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    return root


def opened(folders: Path, name: str, *words: str) -> tuple[Run, Checkpoint, LossCard, Any]:
    argv = ["--model", str(folders / name), "--dataset", str(folders / "rows.jsonl"), "--dataset_test_ratio", "0"]
    argv += ["--template", "chatml"]
    run = seeded(build_run(load("rlhf"), [*argv, *words], {})[0])
    checkpoint, card = open_checkpoint(run, weights=False), LOSSES.get(run.rlhf.rlhf_type)
    data = read_data(run, checkpoint, card)
    return derive(run, data.pictures), checkpoint, card, data.train


def planned(folders: Path, name: str, *words: str) -> Plan:
    return make_plan(*opened(folders, name, *words), {})


CASES = {
    "default": ("llama",),
    "all": ("llama", "--target_modules", "ALL", "--lora_rank", "3"),
    "embedding": ("llama", "--target_modules", "DEFAULT", "EMBEDDING", "--modules_to_save", "lm_head"),
    "tied": ("gemma", "--sft_type", "full"),
    "dora": ("llama", "--use_dora", "true"),
    "pissa": ("llama", "--init_lora_weights", "pissa"),
    "olora": ("llama", "--init_lora_weights", "olora"),
    "regex": ("qwen2_5_vl", "--target_regex", ".*visual.*qkv"),
    "vision": ("qwen2_5_vl", "--target_modules", "ALL", "--freeze_vit", "false", "--freeze_aligner", "false"),
    "projector": ("llava", "--target_modules", "ALL", "--freeze_aligner", "false"),
    "full": ("llama", "--sft_type", "full"),
    "full-vision": ("qwen2_5_vl", "--sft_type", "full", "--freeze_vit", "false"),
    "full-projector": ("llava", "--sft_type", "full", "--freeze_llm", "true", "--freeze_aligner", "false"),
}


@pytest.mark.parametrize("words", CASES.values(), ids=CASES)
def test_counts_are_those_of_the_model_that_is_built(words: tuple[str, ...], folders: Path) -> None:
    run, checkpoint, card, groups = opened(folders, *words)
    plan = make_plan(run, checkpoint, card, groups, {})
    model = policy(run, checkpoint, card, checkpoint.source.folder)
    assert plan.trainable == sum(weight.numel() for weight in model.parameters() if weight.requires_grad) > 0
    assert plan.parameters == sum(weight.numel() for weight in families.model(words[0]).parameters())


def test_tokens_and_steps(folders: Path) -> None:
    run, checkpoint, card, groups = opened(folders, "llama", "--batch_size", "2", "--gradient_accumulation_steps", "1")
    plan = make_plan(run, checkpoint, card, groups, {})
    assert (plan.groups, plan.steps) == (5, 3)
    assert set(plan.tokens) == {"prompt", "completion", "row"}
    rows = sorted(group.longest for group in groups)
    assert plan.tokens["row"] == {"p50": rows[2], "p95": rows[4], "max": rows[4]}
    assert plan.tokens["completion"]["max"] == max(len(one.ids) for group in groups for one in group.completions)
    vision = planned(folders, "llava")
    assert vision.tokens["images"]["max"] == 0  # there are none in these rows


@pytest.mark.parametrize("flags", [("--adapters",), ("--resume_only_model", "--resume_from_checkpoint")])
def test_a_continued_adapter_keeps_its_own_shape(flags: tuple[str, ...], folders: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    shape = LoraConfig(r=3, target_modules=["q_proj", "o_proj"])
    made = get_peft_model(families.model("llama"), shape)
    made.save_pretrained(tmp_path)
    run, checkpoint, card, groups = opened(folders, "llama", *flags, str(tmp_path))
    text = "\n".join(headline(run, checkpoint, card))
    assert f"LoRA rank 3 on o_proj q_proj, continued from {tmp_path}" in text
    assert make_plan(run, checkpoint, card, groups, {}).trainable == made.get_nb_trainable_parameters()[0]


def test_disk_is_about_what_checkpoints_take(folders: Path) -> None:
    assert planned(folders, "llama", "--save_total_limit", "3").disk == 3 * 12 * planned(folders, "llama").trainable
    full = planned(folders, "llama", "--sft_type", "full", "--save_total_limit", "1")
    assert full.disk == 12 * full.parameters
    words = ("--gradient_accumulation_steps", "1", "--num_save_checkpoint", "4")
    assert planned(folders, "llama", *words).disk == 4 * 12 * planned(folders, "llama").trainable


def test_words(folders: Path) -> None:
    run, checkpoint, card, groups = opened(folders, "llama", "--lora_rank", "3", "--batch_size", "2")
    text = "\n".join(headline(run, checkpoint, card))
    for part in ("template chatml", "LoRA rank 3 on DEFAULT", "step = 16 groups (2 x 8 accumulated x 1 ranks)"):
        assert part in text
    assert "layout = shared: each prompt is computed once" in text
    assert "learning rate 0.0001" in text
    plan = make_plan(run, checkpoint, card, groups, {})
    assert f"trained: {plan.trainable:,}" in "\n".join(plan.lines())
    assert "memory" not in "\n".join(plan.lines())
    plan = make_plan(run, checkpoint, card, groups, {"weights": 3 << 29, "logits": 1 << 29})
    assert "estimated peak memory per device: 2.00 GiB (weights 1.50 GiB, logits 512.0 MiB)" in plan.lines()
    assert json.loads(json.dumps(as_json(plan)))["peak"] == plan.peak
    full = opened(folders, "llama", "--sft_type", "full")
    assert "training all weights" in "\n".join(headline(*full[:3]))


@pytest.mark.parametrize(("size", "wanted"), [(0, "0.0 MiB"), (3 << 19, "1.5 MiB"), (5 << 29, "2.50 GiB")])
def test_amounts(size: int, wanted: str) -> None:
    assert amount(size) == wanted
