"""Dotted paths: how cold cards name hot code."""

from __future__ import annotations

import importlib
from typing import Any


def resolve(path: str) -> Any:
    """`package.module:name` to the object. Imports the module."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
