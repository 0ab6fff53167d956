"""Packages that only some runs need."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from swiftlike.core.errors import UserError


def available(name: str) -> bool:
    """Whether a top-level package is installed, without importing it."""
    return importlib.util.find_spec(name) is not None


def require(name: str, *, because: str, extra: str = "", package: str = "") -> ModuleType:
    """The module `name`. UserError with the command that installs it when it is missing.

    `because` is what asked for it ("--infer_backend vllm"), `extra` our optional dependency group that holds it,
    `package` its name on the package index where that differs.
    """
    if not available(name.partition(".")[0]):
        what = f"'swiftlike[{extra}]'" if extra else package or name
        raise UserError(f"{because} needs the package {package or name}", hint=f"pip install {what}")
    return importlib.import_module(name)
