"""A model folder as vLLM can load it: links to the model's own files, and other files where training used others."""

from __future__ import annotations

import dataclasses as dc
import json
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from swiftlike.core.files import write_json
from swiftlike.core.log import get_logger
from swiftlike.engines.base import Sampling
from swiftlike.engines.choosing import settle
from swiftlike.models.load import NATIVE, choose_dtype, fit_separator, load_model
from swiftlike.models.published import is_published, rename_folder

log = get_logger(__name__)
WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
GENERATION = "generation_config.json"
CHOSEN = ("max_new_tokens", "top_p", "top_k", "repetition_penalty")


def loadable(opened: Any, scratch: Path, merge: bool) -> Path:
    """The model's own folder where vLLM can take it as it is, else `scratch`, filled.

    Weights are written only to merge adapters, to turn another layout into transformers', to add rows for a separator
    token, or to give LLaVA's tower its published names.
    """
    folder: Path = opened.model_folder
    if merge or _has_other_weights(opened):
        _save(opened, scratch, merge)
    elif _narrowed(opened) or not is_published(folder):
        rename_folder(folder, scratch)
        _link(folder, scratch)
    else:
        return folder
    if opened.checkpoint.adapter is not None:
        _limit_pictures(opened.checkpoint, scratch)
    return scratch


def generation_config(folder: Path) -> GenerationConfig:
    """What a model folder says about generation."""
    if (folder / GENERATION).is_file():
        return GenerationConfig.from_pretrained(folder, local_files_only=True)
    return GenerationConfig()


def with_settings(folder: Path, scratch: Path, ends: frozenset[int], sampling: Sampling) -> Path:
    """`scratch`, filled, with a generation_config.json that ends answers where training did, and says how tokens are
    chosen for requests that do not: as `sampling` does, and where that is silent, the model's own."""
    if folder != scratch:
        _link(folder, scratch)
    own = generation_config(folder)
    file = folder / GENERATION
    saved = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    known = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    asked = {name: getattr(sampling, name) for name in CHOSEN if getattr(sampling, name) is not None}
    asked |= {"temperature": settle(sampling, own).temperature}  # vLLM draws where it is told nothing
    _replace(scratch / GENERATION, saved | asked | {"eos_token_id": sorted({*known, *ends} - {None})})
    return scratch


def _has_other_weights(opened: Any) -> bool:
    checkpoint = opened.checkpoint
    rows = getattr(checkpoint.config.get_text_config(), "vocab_size", None)
    separator = checkpoint.tokenizer.sep_token_id
    return checkpoint.source.loader != NATIVE or (separator is not None and rows is not None and separator >= rows)


def _save(opened: Any, scratch: Path, merge: bool) -> None:
    """The model as training has it in memory, adapters merged, in an ordinary folder."""
    source = opened.checkpoint.source
    log.info("writing the weights to %s for vLLM", scratch)
    model: Any = load_model(source, dtype=choose_dtype(opened.run.model.torch_dtype))
    fit_separator(model, opened.checkpoint.tokenizer)
    if merge and opened.adapters:
        from peft import PeftModel

        for adapter in opened.adapters.values():
            model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    model.save_pretrained(scratch)
    rename_folder(scratch)
    opened.checkpoint.tokenizer.save_pretrained(scratch)
    _link(source.folder, scratch, weights=False)


def _narrowed(opened: Any) -> bool:
    adapter = opened.checkpoint.adapter
    return adapter is not None and any(value is not None for value in dc.astuple(adapter.budget))


def _limit_pictures(checkpoint: Any, scratch: Path) -> None:
    """The processor with the limits that training set, and the grids of tiles that they leave."""
    for name in PROCESSORS:
        (scratch / name).unlink(missing_ok=True)
    checkpoint.adapter.processor.save_pretrained(scratch)
    file = scratch / PROCESSORS[0]
    saved = json.loads(file.read_text(encoding="utf-8"))
    saved["image_processor_type"] = saved["image_processor_type"].removesuffix("Pil")
    own = checkpoint.source.folder / PROCESSORS[1]
    if own.is_file():
        kept = json.loads(own.read_text(encoding="utf-8"))
        if "image_processor" in kept:  # transformers 5 keeps it inside
            kept["image_processor"] = saved
        write_json(scratch / PROCESSORS[1], kept)
    _replace(file, saved)
    if hasattr(checkpoint.config, "image_grid_pinpoints"):
        config = json.loads((scratch / "config.json").read_text(encoding="utf-8"))
        _replace(scratch / "config.json", config | {"image_grid_pinpoints": checkpoint.config.image_grid_pinpoints})


def _link(folder: Path, scratch: Path, weights: bool = True) -> None:
    """Links to all files that `scratch` has none of its own for."""
    for file in folder.resolve().iterdir():
        own = scratch / file.name
        if file.is_file() and not own.exists() and (weights or not file.name.endswith(WEIGHTS)):
            own.symlink_to(file.resolve())


def _replace(file: Path, value: Any) -> None:
    """Write over a link, not through it."""
    file.unlink(missing_ok=True)
    write_json(file, value)
