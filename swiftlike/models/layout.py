"""Which token may attend to which, for the shared and the split layout, in the form each attention kernel takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from swiftlike.models import attention

PAD = -1
LONG = 256  # tokens of a row from which computing it piece by piece is faster than under a mask

# Language models (config.json's model_type) for which a test holds the shared layout equal to the plain forward.
# Others may keep positions or windows outside the mask: ALiBi (bloom, mpt, falcon), gpt_neo's local layers, rwkv.
TESTED = frozenset(
    [
        "apertus",
        "arcee",
        "biogpt",
        "cohere",
        "cohere2",
        "ernie4_5",
        "exaone4",
        "gemma",
        "gemma2",
        "gemma3_text",
        "glm4",
        "gpt2",
        "gpt_bigcode",
        "gpt_neox",
        "gpt_oss",
        "gptj",
        "granite",
        "hyperclovax",
        "llama",
        "ministral",
        "mistral",
        "mixtral",
        "nemotron",
        "olmo2",
        "olmo3",
        "opt",
        "persimmon",
        "phi",
        "phi3",
        "phimoe",
        "qwen2",
        "qwen2_5_vl_text",
        "qwen2_moe",
        "qwen2_vl_text",
        "qwen3",
        "qwen3_moe",
        "qwen3_vl_text",
        "seed_oss",
        "smollm3",
        "stablelm",
        "starcoder2",
        "xglm",
    ]
)

# Of them, those that do not tell flash_attention_2 the positions, so that it cannot see where rows begin.
UNTOLD = frozenset(["gpt2", "gpt_bigcode", "gptj", "persimmon", "xglm"])


def allowed(segments: Tensor, positions: Tensor, window: int | None = None, lines: Tensor | None = None) -> Tensor:
    """bool [R, 1, T, T], True where query i may attend to key j.

    j comes no later, and lies in the prompt or in i's own completion; with a sliding window also closer than `window`
    logical positions; where rows are laid end to end, in the same of `lines`. Padding sees itself, so that no softmax
    row is empty.
    """
    length = segments.shape[1]
    query, key = segments[:, :, None], segments[:, None, :]
    mask = ((key == 0) | (key == query)) & (key != PAD) & (query != PAD)
    mask &= torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    if lines is not None:
        mask &= lines[:, :, None] == lines[:, None, :]
    if window is not None:
        mask &= positions[:, :, None] - positions[:, None, :] < window
    return (mask | torch.eye(length, dtype=torch.bool, device=segments.device))[:, None]


def group_mask(
    config: Any, segments: Tensor, positions: Tensor, dtype: torch.dtype, lines: Tensor | None = None
) -> Any:
    """The `attention_mask` argument of an unmodified transformers model for these segments.

    `positions` is [R, T] (the first axis of M-RoPE positions: windows do not occur there). Models that mix full and
    sliding layers get one mask per layer type, because a single one would be used for all of them.
    """
    text = config.get_text_config()
    window = _window(text)

    def mask(size: int | None) -> Any:
        kernel = text._attn_implementation
        if kernel == attention.NAME and segments.shape[1] >= LONG:
            return attention.pack(segments, size, lines)
        if kernel == "flex_attention":
            return _block_mask(segments, positions, size, lines)
        dense = allowed(segments, positions, size, lines)
        return _additive(dense, dtype) if kernel == "eager" else dense

    types = set(getattr(text, "layer_types", None) or ())
    if "sliding_attention" in types:
        return {"full_attention": mask(None), "sliding_attention": mask(window)}
    if types - {"full_attention"}:
        raise ValueError(f"layers of types {sorted(types)} cannot take a mask per token")
    return mask(window)


def _window(text: Any) -> int | None:
    """The sliding window in use. Qwen2 keeps a size in its config that `use_sliding_window` switches off."""
    if getattr(text, "use_sliding_window", True) is False:
        return None
    return getattr(text, "sliding_window", None)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def _block_mask(segments: Tensor, positions: Tensor, window: int | None, lines: Tensor | None) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    rows, length = segments.shape
    visible = mask_mod(segments, positions, window, lines)
    return create_block_mask(visible, rows, None, length, length, device=str(segments.device))


def mask_mod(
    segments: Tensor, positions: Tensor, window: int | None = None, lines: Tensor | None = None
) -> Callable[..., Tensor]:
    """`allowed` as a function of (row, head, query, key), as flex_attention wants it: nothing of size T x T is kept."""

    def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        mine, other = segments[b, q], segments[b, k]
        seen = (k <= q) & ((other == 0) | (other == mine)) & (other != PAD) & (mine != PAD)
        if lines is not None:
            seen = seen & (lines[b, q] == lines[b, k])
        if window is not None:
            seen = seen & (positions[b, q] - positions[b, k] < window)
        return seen | (q == k)

    return visible


def end_to_end(config: Any, layout: str, kernel: str) -> int | None:
    """The length of a batch's longest row from which its rows are laid end to end; None: they are padded."""
    text = config.get_text_config()
    if layout == "shared":
        return {"sdpa": LONG, "flex_attention": 0}.get(kernel)
    # transformers finds the rows by positions that begin again, which those of three axes do not
    plain = "mrope_section" not in (getattr(text, "rope_parameters", None) or {})
    return 0 if kernel == "flash_attention_2" and text.model_type in TESTED - UNTOLD and plain else None


def supports_shared(config: Any, implementation: str) -> str:
    """Why a model cannot use the shared layout, or an empty string when it can."""
    text = config.get_text_config()
    types = set(getattr(text, "layer_types", None) or ())
    if types - {"full_attention", "sliding_attention"}:
        return f"it has {', '.join(sorted(types - {'full_attention', 'sliding_attention'}))} layers"
    if text.model_type not in TESTED:
        return f"no test shows that {text.model_type} models can take it"
    if implementation == "flash_attention_2":
        return "flash_attention_2 takes no mask per token"
    return ""
