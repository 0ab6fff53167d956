"""Weight names of published checkpoints, in what we save.

transformers reads several spellings of a name and writes one. For LLaVA that is not the published one: the level
`vision_model` of the picture tower is left out, and other programs (vLLM) then find no weights. Both spellings load in
transformers. The names of the other families are the published ones already (tests hold this).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import safe_open
from safetensors.torch import save_file

from swiftlike.core.files import write_json

Value = TypeVar("Value")
INDEX = "model.safetensors.index.json"

# config.json's model_type: (pattern, replacement). The tower is CLIP's or SigLIP's, which are called alike.
_TOWER = r"(model\.)?vision_tower\.(embeddings|encoder|pre_layrnorm|post_layernorm|head)\."
_PUBLISHED = {family: ((re.compile(_TOWER), r"\1vision_tower.vision_model.\2."),) for family in ("llava", "llava_next")}


def published_name(model_type: str, name: str) -> str:
    """The name of a tensor in published checkpoints of the family; names that are so already stay."""
    for pattern, replacement in _PUBLISHED.get(model_type, ()):
        if pattern.match(name):
            return pattern.sub(replacement, name, count=1)
    return name


def published_state(model_type: str, state: Mapping[str, Value]) -> dict[str, Value]:
    """A state dict under published names."""
    return {published_name(model_type, name): value for name, value in state.items()}


def is_published(folder: Path) -> bool:
    """Whether the weights of a model folder have published names. Only headers are read."""
    family = _model_type(folder)
    return all(published_name(family, name) == name for file in _files(folder) for name in _names(file))


def rename_folder(folder: Path, target: Path | None = None) -> bool:
    """Give the weights of a saved model their published names, file by file; whether any name changed.

    `target` is another folder for the renamed files; without it they take the place of the old ones.
    """
    family, changed = _model_type(folder), False
    for file in _files(folder):
        if all(published_name(family, name) == name for name in _names(file)):
            continue
        _rewrite(file, (target or folder) / file.name, family)
        changed = True
    index = folder / INDEX
    if changed and index.is_file():
        found = json.loads(index.read_text(encoding="utf-8"))
        found["weight_map"] = published_state(family, found["weight_map"])
        write_json((target or folder) / INDEX, found)
    return changed


def _rewrite(file: Path, target: Path, family: str) -> None:
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    with safe_open(file, framework="pt") as shard:
        tensors: dict[str, Any] = {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118 - no mapping
        metadata = shard.metadata()
    try:
        save_file(published_state(family, tensors), draft, metadata=metadata)
        draft.chmod(file.stat().st_mode)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def _model_type(folder: Path) -> str:
    return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type", "")


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("model*.safetensors"))


def _names(file: Path) -> Iterable[str]:
    with safe_open(file, framework="pt") as shard:
        return list(shard.keys())
