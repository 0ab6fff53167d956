"""Tiny models on two devices, as the planner and accelerate would have them."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from accelerate.hooks import attach_align_device_hook_on_blocks
from torch import nn

from swiftlike.models.placement import module_sizes, plan


def two_devices(model: Any, names: tuple[str, str]) -> dict[str, str]:
    """The planner's map, its two cards called otherwise."""
    size = module_sizes(model)[""]
    where = plan(SimpleNamespace(device_map=None, max_memory={}, quant_bits=0), model, {0: size, 1: size}).where
    assert set(where.values()) == {0, 1}
    return {module: names[at] for module, at in where.items()}


def attach(model: nn.Module, where: Mapping[str, str]) -> None:
    """What accelerate's dispatch_model does for weights that lie where the map says."""
    attach_align_device_hook_on_blocks(model, execution_device=dict.fromkeys((*where, ""), "cpu"))
    for name, module in model.named_modules():
        if hasattr(module, "_hf_hook"):
            module._hf_hook.execution_device = torch.device(device_at(where, name) or next(iter(where.values())))


def device_at(where: Mapping[str, str], name: str) -> str | None:
    """The device of a module: what the map says of the longest name above it; None for the whole model."""
    above = [one for one in where if f"{name}.".startswith(f"{one}.")]
    return where[max(above, key=len)] if above else None
