"""Adapters of ms-swift's own tuners as peft's files, and back.

ms-swift v2 with `--tuner_backend swift` (SwiftModel) writes one folder for each adapter, `default/` for the usual one.
Its adapter_config.json has `swift_type` and keys that peft does not know; names of tensors lack peft's
`base_model.model.` and carry the adapter's name before `weight`.
"""

from __future__ import annotations

import dataclasses as dc
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from swiftlike.core.errors import UserError
from swiftlike.core.files import write_json
from swiftlike.pipelines.export.folders import adapter_config, copy_args, copy_clean, leave_record

CONFIG, SAFE, OLD = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
DEFAULT = "default"
PREFIX = "base_model.model."
_MATRIX = re.compile(r"(.*\.lora_(?:A|B|embedding_A|embedding_B|magnitude_vector))(?:\.(?!weight$)[^.]+)?(\.weight)?")
_WHOLE = re.compile(r"(.*)\.modules_to_save\.[^.]+\.(weight|bias)")
_ONLY_SWIFT = {"use_qa_lora": "QA-LoRA", "use_merged_linear": "merged linear layers"}
Config, State = dict[str, Any], Mapping[str, torch.Tensor]


def to_peft(folder: Path, draft: Path) -> None:
    """Each adapter of the folder as peft writes it: the default one at the top, others in folders of their names."""
    found = _adapters(folder)
    if not found:
        raise UserError(f"{folder} holds no {CONFIG}, nor does a folder in it: it is no adapter")
    for name, path in found.items():
        target = draft if name == DEFAULT or len(found) == 1 else draft / name
        _write(target, _peft_config(path), _peft_state(_state(path), name))
    _rest(folder, draft)


def to_swift(folder: Path, draft: Path) -> None:
    """A peft adapter as ms-swift v2's own tuners read it."""
    config = adapter_config(folder) if (folder / CONFIG).is_file() else {}
    if "swift_type" in config or config.get("peft_type") != "LORA":
        raise UserError(f"{folder} is no LoRA adapter in peft's files")
    if config.get("use_dora") or config.get("modules_to_save"):
        raise UserError(f"{folder} has DoRA or whole modules, which ms-swift's own tuners do not have")
    config["swift_type"] = config.pop("peft_type")
    _write(draft / DEFAULT, config, {_swift_name(name): value for name, value in _state(folder).items()})
    _rest(folder, draft)


def _adapters(folder: Path) -> dict[str, Path]:
    inside = {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{CONFIG}"))}
    return ({DEFAULT: folder} if (folder / CONFIG).is_file() else {}) | inside


def _state(path: Path) -> State:
    if (path / SAFE).is_file():
        return load_file(path / SAFE)
    if (path / OLD).is_file():
        try:
            return torch.load(path / OLD, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise UserError(f"{path / OLD} is a pickle that holds more than numbers: {error}") from None
    raise UserError(f"{path} has neither {SAFE} nor {OLD}")


def _write(folder: Path, config: Config, state: State) -> None:
    folder.mkdir(exist_ok=True)
    write_json(folder / CONFIG, config)
    save_file({name: value.contiguous() for name, value in state.items()}, folder / SAFE, metadata={"format": "pt"})


def _rest(folder: Path, draft: Path) -> None:
    """The files beside the adapter, such as a value head and the tokenizer."""
    copy_clean(folder, draft)
    copy_args(folder, draft)
    for name in (CONFIG, SAFE, OLD):
        if not (draft / DEFAULT).is_dir():
            break
        (draft / name).unlink(missing_ok=True)
    (draft / "configuration.json").unlink(missing_ok=True)  # ms-swift's mark
    leave_record(draft, adapter=str(folder))


# -- names ------------------------------------------------------------------------------------------------------------


def _peft_config(path: Path) -> Config:
    """What peft knows of an adapter's configuration. UserError for kinds that it does not have."""
    saved = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    kind = saved.get("peft_type") or saved.get("swift_type")
    if kind != "LORA":
        raise UserError(f"{path} is a {kind} adapter; peft has LoRA")
    if wrong := [what for key, what in _ONLY_SWIFT.items() if saved.get(key)]:
        raise UserError(f"{path} uses {' and '.join(wrong)}, which peft does not have")
    known = {field.name for field in dc.fields(LoraConfig)}
    return {key: value for key, value in saved.items() if key in known} | {"peft_type": kind}


def _peft_state(state: State, adapter: str) -> dict[str, torch.Tensor]:
    return {_peft_name(name): value for name, value in state.items() if not _of_another(name, adapter)}


def _of_another(name: str, adapter: str) -> bool:
    """Whether a tensor carries the name of another adapter."""
    found = re.fullmatch(r".*\.lora_(?:A|B|embedding_A|embedding_B)\.([^.]+)(?:\.weight)?", name)
    return found is not None and found[1] not in (adapter, "weight")


def _peft_name(name: str) -> str:
    if found := _MATRIX.fullmatch(name):
        embedding = "embedding" in found[1]
        name = found[1] + ("" if embedding else ".weight")
    elif found := _WHOLE.fullmatch(name):
        name = f"{found[1]}.{found[2]}"
    return name if name.startswith(PREFIX) else PREFIX + name


def _swift_name(name: str) -> str:
    name = name.removeprefix(PREFIX)
    if found := _MATRIX.fullmatch(name):
        return f"{found[1]}.{DEFAULT}" + (found[2] or "")
    return name
