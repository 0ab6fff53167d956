"""What DEFAULT and ALL mean, held against real architectures without weights (meta device)."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest

from swiftlike.model_registry import MODELS
from swiftlike.model_registry.card import ModelCard

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GEMMA = {**TEXT, "head_dim": 8}
MOE = {**TEXT, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MIXTURE = {**TEXT, "num_local_experts": 4, "num_experts_per_tok": 2}
CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
    "projection_dim": 8,
}
INTERN = {**CLIP, "model_type": "internvl_vision", "image_size": [16, 16], "patch_size": [8, 8]}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
QWEN_EYES = {"depth": 2, "hidden_size": 16, "embed_dim": 16, "num_heads": 2, "out_hidden_size": 32}
QWEN_TEXT = {**TEXT, "rope_parameters": ROPE}

CONFIGS: dict[str, dict[str, Any]] = {
    "gemma": GEMMA,
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "internvl": {"text_config": {**TEXT, "model_type": "qwen2"}, "vision_config": INTERN},
    "llama": TEXT,
    "llava": {"text_config": {**TEXT, "model_type": "llama"}, "vision_config": CLIP},
    "llava_next": {"text_config": {**TEXT, "model_type": "mistral"}, "vision_config": CLIP},
    "mistral": TEXT,
    "mixtral": MIXTURE,
    "phi": TEXT,
    "phi3": TEXT,
    "phimoe": MIXTURE,
    "qwen2": TEXT,
    "qwen2_5_vl": {"text_config": QWEN_TEXT, "vision_config": {**QWEN_EYES, "intermediate_size": 32}},
    "qwen2_moe": {**MOE, "shared_expert_intermediate_size": 16},
    "qwen2_vl": {"text_config": QWEN_TEXT, "vision_config": {**QWEN_EYES, "hidden_size": 32}},
    "qwen3": {**TEXT, "head_dim": 8},
    "qwen3_moe": {**MOE, "head_dim": 8},
    "qwen3_vl": {
        "text_config": {**QWEN_TEXT, "head_dim": 8},
        "vision_config": {**QWEN_EYES, "intermediate_size": 32, "deepstack_visual_indexes": [0, 1]},
    },
}
CARDS = [card for card in MODELS if card.name != "generic"]
MOE_PARTS = {"gate", "router", "shared_expert_gate"}  # choose experts: no targets


@functools.cache
def model(name: str) -> Any:
    config = transformers.AutoConfig.for_model(name, **CONFIGS[name])
    kind = "AutoModelForImageTextToText" if MODELS.get(name).vision else "AutoModelForCausalLM"
    with torch.device("meta"):
        return getattr(transformers, kind).from_config(config)


def linears(name: str) -> list[str]:
    return [path for path, part in model(name).named_modules() if isinstance(part, torch.nn.Linear)]


def hits(pattern: str, paths: list[str]) -> list[str]:
    return [path for path in paths if re.fullmatch(pattern, path)]


def language(name: str) -> list[str]:
    """Linear layers of the language model, without the head."""
    inside = "model.language_model." if MODELS.get(name).vision else "model."
    return [path for path in linears(name) if path.startswith(inside) and path.rpartition(".")[2] not in MOE_PARTS]


def test_every_family_is_tried() -> None:
    assert set(CONFIGS) == {card.name for card in CARDS}


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_default_is_q_k_v_of_the_language_model(card: ModelCard) -> None:
    found = hits(card.lora.attention, [path for path, _ in model(card.name).named_modules()])
    assert set(found) <= set(language(card.name))
    names = {"qkv_proj"} if card.name == "phi3" else {"q_proj", "k_proj", "v_proj"}
    assert {path.rpartition(".")[2] for path in found} == names
    assert len(found) == 2 * len(names)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_all_is_every_linear_of_the_language_model(card: ModelCard) -> None:
    found = hits(card.lora.linear, [path for path, _ in model(card.name).named_modules()])
    assert sorted(found) == sorted(language(card.name))


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_parts_exist(card: ModelCard) -> None:
    there = {path for path, _ in model(card.name).named_modules()}
    there |= {path for path, _ in model(card.name).named_parameters()}
    assert set(card.lora.language) <= there
    assert set(card.lora.aligner) <= there
    assert set(card.lora.tower) <= there
    assert bool(card.lora.aligner) == bool(card.lora.tower) == (card.vision is not None)


@pytest.mark.parametrize("card", [card for card in CARDS if card.vision], ids=lambda card: card.name)
def test_every_weight_belongs_to_one_part(card: ModelCard) -> None:
    parts = (*card.lora.language, *card.lora.aligner, *card.lora.tower)
    for path, _ in model(card.name).named_parameters():
        assert sum(path == part or path.startswith(f"{part}.") for part in parts) == 1, path


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_architecture_is_the_class(card: ModelCard) -> None:
    assert type(model(card.name)).__name__ in card.architectures
    assert model(card.name).config.model_type in card.hf_types


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "falcon", "qwen2", "phi3"])
def test_generic_finds_attention(name: str) -> None:
    small = {} if name == "gpt_neox" else {"num_hidden_layers": 1}
    config = transformers.AutoConfig.for_model(name, **small)
    with torch.device("meta"):
        other = transformers.AutoModelForCausalLM.from_config(config)
    found = hits(MODELS.get("generic").lora.attention, [path for path, _ in other.named_modules()])
    assert found
    assert all("attn" in path or "attention" in path for path in found)
