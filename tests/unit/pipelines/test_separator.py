"""The separator token of APO's template: taken from the tokenizer, or added, learnt, saved and found again."""

from __future__ import annotations

import dataclasses as dc
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from swiftlike.cli.commands import load
from swiftlike.cli.layers import build_run
from swiftlike.core.merge import Run
from swiftlike.losses import LOSSES
from swiftlike.models.load import fit_separator, load_model, load_tokenizer
from swiftlike.pipelines.assemble import policy
from swiftlike.pipelines.prepare import Checkpoint, open_checkpoint
from swiftlike.pipelines.train import run as train


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    pairs = [{"prompt": f"red {i}?", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(4)]
    path.write_text("".join(json.dumps(one) + "\n" for one in pairs), encoding="utf-8")
    return path


def asked(*words: str) -> Run:
    start = {"--model": "tiny-llama", "--template": "apo", "--rlhf_type": "dpo", "--torch_dtype": "float32"}
    argv = [word for flag, value in start.items() if flag not in words for word in (flag, value)]
    return build_run(load("rlhf"), [*argv, *words], {})[0]


def opened(*words: str) -> tuple[Run, Checkpoint]:
    run = asked("--dataset", "x", *words)
    return run, open_checkpoint(run, weights=True)


def loaded(*words: str) -> tuple[Checkpoint, Any]:
    run, checkpoint = opened(*words)
    return checkpoint, policy(run, checkpoint, LOSSES.get("dpo"), checkpoint.source.folder)


def embeddings(model: Any) -> list[torch.Tensor]:
    return [model.get_input_embeddings().weight.detach(), model.get_output_embeddings().weight.detach()]


def test_a_token_is_added_only_for_the_template_that_needs_it() -> None:
    _, checkpoint = opened()
    tokenizer = checkpoint.tokenizer
    assert tokenizer("a<sep>b", add_special_tokens=False)["input_ids"][1] == tokenizer.sep_token_id
    assert checkpoint.template.card.user == "{query}<sep>"
    for words in (("--add_sep_token", "false"), ("--template", "plain"), ("--template", "chat_template")):
        _, other = opened(*words)
        assert other.tokenizer.sep_token is None
        assert len(other.tokenizer) == len(checkpoint.tokenizer) - 1
        assert "{sep}" not in (other.template.card.user if other.template.card else "")


def test_the_tokenizers_own_separator_is_taken(tmp_path: Path) -> None:
    _, checkpoint = opened("--template", "plain")
    tokenizer = checkpoint.tokenizer
    tokenizer.sep_token = "|"
    tokenizer.save_pretrained(tmp_path)
    found = load_tokenizer(dc.replace(checkpoint.source, folder=tmp_path, template="apo"))
    assert found.sep_token == "|"
    assert len(found) == len(tokenizer)
    model = load_model(checkpoint.source)
    rows = model.get_input_embeddings().weight.shape[0]
    fit_separator(model, found)
    assert model.get_input_embeddings().weight.shape[0] == rows


def test_new_rows_are_about_the_mean_and_always_the_same() -> None:
    state = torch.random.get_rng_state()
    checkpoint, model = loaded("--sft_type", "full")
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    again = loaded("--sft_type", "full")[1]
    token = checkpoint.tokenizer.sep_token_id
    for one, other in zip(embeddings(model), embeddings(again), strict=True):
        assert one.shape[0] == token + 1
        assert torch.equal(one, other)
        torch.testing.assert_close(one[token], one[:token].mean(0), atol=1e-3, rtol=0)


@pytest.mark.parametrize("tuner", ["lora", "full"])
def test_saved_and_found_again(rows: Path, tmp_path: Path, tuner: str) -> None:
    words = ["--sft_type", tuner, "--dataset", str(rows), "--dataset_test_ratio", "0", "--max_steps", "1"]
    words += ["--gradient_accumulation_steps", "1", "--warmup_ratio", "0", "--learning_rate", "0.01"]
    trained = train(asked(*words, "--output_dir", str(tmp_path / "out")))
    assert trained is not None
    saved = trained.folder / "checkpoint-1"
    on = ("--adapters", str(saved)) if tuner == "lora" else ("--model", str(saved))
    checkpoint, model = loaded("--sft_type", tuner, *on)
    fresh = loaded("--sft_type", tuner)[1]
    token = checkpoint.tokenizer.sep_token_id
    assert checkpoint.tokenizer.convert_tokens_to_ids("<sep>") == token
    for one, start in zip(embeddings(model), embeddings(fresh), strict=True):
        assert one.shape == start.shape
        assert torch.equal(one[token], start[token]) == (tuner == "lora")  # full training has moved it


def test_an_adapter_holds_the_rows(rows: Path, tmp_path: Path) -> None:
    """Even a base whose new rows are others gives the trained model."""
    from safetensors.torch import load_file

    words = ["--dataset", str(rows), "--dataset_test_ratio", "0", "--max_steps", "1", "--output_dir", str(tmp_path)]
    trained = train(asked(*words))
    assert trained is not None
    weights = load_file(trained.folder / "checkpoint-1" / "adapter_model.safetensors")
    _, model = loaded()
    for one in embeddings(model):
        assert any(one.shape == other.shape and torch.equal(one, other) for other in weights.values())
