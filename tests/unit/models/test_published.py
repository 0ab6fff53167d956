"""Weight names of what we save."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from swiftlike.models.published import INDEX, is_published, published_name, published_state, rename_folder
from tests import families

# What config.json and the first lines of the index of published checkpoints say.
TOWERS = {
    "llava": "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",  # llava-hf/llava-1.5-7b-hf
    "llava_next": "vision_tower.vision_model.embeddings.class_embedding",  # llava-hf/llava-v1.6-mistral-7b-hf
    "internvl": "vision_tower.encoder.layer.0.attention.q_proj.weight",  # OpenGVLab/InternVL3-1B-hf
    "qwen2_vl": "visual.blocks.0.attn.qkv.weight",  # Qwen/Qwen2-VL-2B-Instruct
    "qwen2_5_vl": "visual.blocks.0.attn.qkv.weight",  # Qwen/Qwen2.5-VL-3B-Instruct
    "qwen3_vl": "model.visual.blocks.0.attn.qkv.weight",  # Qwen/Qwen3-VL-2B-Instruct
}
TEXTS = {
    **dict.fromkeys(("llava", "llava_next", "internvl"), "language_model.model.layers.0.self_attn.q_proj.weight"),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl"), "model.layers.0.self_attn.q_proj.weight"),
    "qwen3_vl": "model.language_model.layers.0.self_attn.q_proj.weight",
}


def names(folder: Path) -> set[str]:
    found: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as shard:
            found |= set(shard.keys())
    return found


@pytest.mark.parametrize("name", families.VISION)
@pytest.mark.parametrize("shards", [1, 3])
def test_saved_folder_has_published_names_and_loads_identically(name: str, shards: int, tmp_path: Path) -> None:
    model = families.model(name)
    size = sum(weight.numel() * 4 for weight in model.parameters())
    model.save_pretrained(tmp_path, max_shard_size=size // shards + 1)
    before = names(tmp_path)
    changed = rename_folder(tmp_path)
    after = names(tmp_path)
    assert {TOWERS[name], TEXTS[name]} <= after
    assert changed == (before != after) == name.startswith("llava")
    assert len(before) == len(after)
    assert is_published(tmp_path)
    assert not rename_folder(tmp_path)
    if shards > 1:
        assert set(json.loads((tmp_path / INDEX).read_text())["weight_map"]) == after
    again = families.auto_class(name).from_pretrained(tmp_path, dtype=torch.float32)
    wanted = model.state_dict()
    assert again.state_dict().keys() == wanted.keys()
    assert all(torch.equal(weight, wanted[one]) for one, weight in again.state_dict().items())


def test_into_another_folder(tmp_path: Path) -> None:
    families.model("llava_next").save_pretrained(tmp_path)
    before = names(tmp_path)
    (tmp_path / "other").mkdir()
    assert not is_published(tmp_path)
    assert rename_folder(tmp_path, tmp_path / "other")
    assert names(tmp_path) == before
    assert names(tmp_path / "other") == {published_name("llava_next", one) for one in before} != before
    assert [file.name for file in (tmp_path / "other").iterdir()] == ["model.safetensors"]


def test_state_dict() -> None:
    state = {"model.vision_tower.encoder.layers.1.mlp.fc1.bias": 1, "model.language_model.norm.weight": 2}
    renamed = published_state("llava", state)
    assert renamed == {
        "model.vision_tower.vision_model.encoder.layers.1.mlp.fc1.bias": 1,
        "model.language_model.norm.weight": 2,
    }
    assert published_state("llava", renamed) == renamed
    assert published_state("internvl", state) == state


@pytest.mark.parametrize("name", ["tiny-llava1_6", "tiny-internvl3", "tiny-qwen2_5-vl", "tiny-llama", "tiny-qwen3"])
def test_builtin_models_have_published_names(name: str, tmp_path: Path) -> None:
    from swiftlike.models.tiny import build

    folder = build(name, tmp_path / name)
    assert is_published(folder)
    config = json.loads((folder / "config.json").read_text())
    text = config.get("text_config", config)
    assert text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"] >= 32  # vLLM's CPU kernels
    if "llava" in name:
        assert any(re.match(r"vision_tower\.vision_model\.", one) for one in names(folder))
