"""Pictures are looked at once in a step: what a frozen tower sees is the same for the policy and for its reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def look_once(model: nn.Module) -> None:
    """Let an image-text model that is policy and reference in one keep a picture's features from a pass with gradients
    to the pass without that follows on the same pictures. Features that are trained, or drawn at random by a tower with
    dropout, are never kept."""
    if any(value for name, value in model.config.vision_config.to_dict().items() if "drop" in name):
        return
    trunk = model.model
    look = trunk.get_image_features
    kept: list[tuple[Tensor, Any]] = []

    def features(*args: Any, **keywords: Any) -> Any:
        pixels = args[0] if args else keywords["pixel_values"]
        before, found = kept.pop() if kept else (None, None)
        if before is not pixels or torch.is_grad_enabled():
            found = look(*args, **keywords)
            if torch.is_grad_enabled() and not any(one.requires_grad for one in _tensors(found)):
                kept.append((pixels, found))
        return found

    trunk.get_image_features = features


def _tensors(found: Any) -> Iterator[Tensor]:
    """All tensors of what a model gives back."""
    if isinstance(found, Tensor):
        yield found
    elif found is not None:
        for one in found.values() if hasattr(found, "values") else found:
            yield from _tensors(one)
