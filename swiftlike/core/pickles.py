"""Weights that are pickled. A pickle is a program: whoever reads it in full runs what its author wrote."""

from __future__ import annotations

from pathlib import Path

from swiftlike.core.errors import UserError

_MODEL = ("pytorch_model*.bin", "*.pth", "*.pt", "*.ckpt", "*.pkl")
_ADAPTER = "adapter_model"


def refuse_pickled_model(folder: Path) -> None:
    """UserError for a model folder whose weights are pickles only."""
    if any(folder.glob("*.safetensors")) or not (found := _first(folder, _MODEL)):
        return
    raise UserError(
        f"{folder} holds its weights as a pickle ({found}): reading one can run code of its author",
        hint="use the same model in safetensors; or --use_safetensors false, which takes numbers from it and refuses "
        "anything else",
    )


def refuse_pickled_adapter(folder: Path) -> None:
    """UserError for an adapter folder whose weights are pickles only."""
    if (folder / f"{_ADAPTER}.safetensors").is_file() or not (folder / f"{_ADAPTER}.bin").is_file():
        return
    raise UserError(
        f"{folder} holds its weights as a pickle ({_ADAPTER}.bin): reading one can run code of its author",
        hint="this takes the numbers from it, refuses anything else, and writes safetensors: swiftlike export "
        f"--to_peft_format true --ckpt_dir {folder}",
    )


def _first(folder: Path, patterns: tuple[str, ...]) -> str:
    return next((path.name for pattern in patterns for path in sorted(folder.glob(pattern))), "")
