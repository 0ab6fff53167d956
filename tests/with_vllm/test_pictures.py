"""vLLM on models that see: the same prompts and answers as in transformers, whatever the weights went through."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from swiftlike.model_registry.builtin import BUILTIN
from swiftlike.models.published import is_published
from swiftlike.models.tiny import cached

from .using import NEEDS_VLLM, adapter, asked, by_transformers, engine, ids, picture

pytestmark = NEEDS_VLLM


def saved_by_transformers(name: str, folder: Path) -> Path:
    """A folder with the weight names that transformers 5.23 writes."""
    shutil.copytree(cached(name), folder)
    weights = load_file(folder / "model.safetensors")
    renamed = {key.replace("vision_tower.vision_model.", "vision_tower."): weight for key, weight in weights.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def flags(name: str, folder: Path) -> dict[str, Any]:
    """An adapter, merged weights with the fewest tiles, and a folder with other names of weights."""
    if name == "tiny-qwen2_5-vl":
        return {"model_type": name, "adapters": [str(adapter(name, folder / "adapter"))], "max_image_tokens": 20}
    if name == "tiny-internvl3":
        return {
            "model_type": name,
            "adapters": [str(adapter(name, folder / "adapter"))],
            "max_tiles": 2,
            "merge_lora": True,
        }
    made = saved_by_transformers(name, folder / "saved")
    assert not is_published(made)
    return {"model": str(made), "template": "chatml", "max_image_tokens": 60}


@pytest.mark.parametrize("name", [one.name for one in BUILTIN if one.help.startswith("pictures")])
def test_greedy_tokens(name: str, tmp_path: Path) -> None:
    given = flags(name, tmp_path)
    small, wide, tall = (picture(tmp_path, *size) for size in ((90, 70), (300, 100), (64, 200)))
    requests = [
        asked("<image>What colour is the square?", small),
        asked("<image>\nDescribe the image in one sentence.", wide),
        asked("Is <image> like <image>?", tall, small),
        asked("Which of these is a fruit: apple or hammer?"),
    ]
    with engine("pt", **given) as pt:
        wanted = pt.generate(requests)
        generated = [by_transformers(pt, one) for one in requests]
        counts = [pt.count(one) for one in requests]
    with engine("vllm", **given) as vllm:
        found = vllm.generate(requests)
        broken = vllm.generate([asked("<image>?", tmp_path / "none.png"), asked("No picture, <image>."), requests[0]])
    assert ids(found) == ids(wanted) == generated
    assert [one.prompt_tokens for one in found] == counts
    assert [bool(one.error) for one in broken] == [True, True, False]
