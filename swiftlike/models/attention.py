"""Attention of whole groups in blocks: the prompt over itself, then the completions over the prompt and themselves.

One mask over the whole row would compute every completion against all others and the upper half of the prompt, to throw
both away. transformers passes a mask of four axes on to the kernel untouched: ours carries the segments instead.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

NAME = "group_sdpa"


class Block(NamedTuple):
    """The next `length` queries of a row, over their own keys, and over those of the block `prompt` before them.

    No mask: causal.
    """

    length: int
    prompt: int | None
    mask: Tensor | None


def use(model: Any) -> None:
    """Let the layers of a language model that uses sdpa take what `pack` gives. All else they compute as before."""
    text = model.config.get_text_config()
    if text._attn_implementation != "sdpa":
        return
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    text._attn_implementation = NAME


def pack(segments: Tensor, window: int | None, lines: Tensor | None = None) -> Tensor:
    """What the kernel takes for a mask: int64 [R, 1, 3, T], the segments, the sliding window (0: none), and which of
    several groups laid end to end a token is of."""
    lines = torch.zeros_like(segments) if lines is None else lines
    packed = torch.stack([segments, torch.full_like(segments, window or 0), lines], 1)[:, None]
    packed.blocks = _blocks(packed)  # made once, and not by every layer
    return packed


def forward(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **keywords: Any
) -> tuple[Tensor, None]:
    """An attention function of transformers: query [R, heads, T, d], key and value [R, kv heads, T, d] to
    [R, T, heads, d], zeros where a row is padded. With another mask than `pack`'s it is transformers' own sdpa."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward as sdpa

    if attention_mask is None or attention_mask.dtype != torch.int64:
        return sdpa(module, query, key, value, attention_mask, **keywords)
    rows = []
    # a copy of the mask on another device has no blocks
    packed = getattr(attention_mask, "blocks", None) or _blocks(attention_mask)
    # split, not sliced: the gradient of a slice is a tensor of zeros as long as the row
    for blocks, q, k, v in zip(packed, query.split(1), key.split(1), value.split(1), strict=True):
        lengths = [one.length for one in blocks]
        padding = q.shape[2] - sum(lengths)
        queries, keys, values = (states.split([*lengths, padding], 2) for states in (q, k, v))
        done = [
            sdpa(module, queries[i], _seen(keys, i, one), _seen(values, i, one), one.mask, **keywords)[0]
            for i, one in enumerate(blocks)
        ]
        rows.append(torch.cat([*done, q.new_zeros(1, padding, q.shape[1], v.shape[-1])], 1))
    return rows[0] if len(rows) == 1 else torch.cat(rows), None


def _seen(parts: tuple[Tensor, ...], i: int, block: Block) -> Tensor:
    """The keys, or values, [1, heads, T, d] that the `i`-th block sees."""
    return parts[i] if block.prompt is None else torch.cat([parts[block.prompt], parts[i]], 2)


def _blocks(packed: Tensor) -> list[list[Block]]:
    """Of each row, in order."""
    segments, windows, lines = packed[:, 0].cpu().unbind(1)
    window = int(windows[0, 0])
    rows = []
    for row, numbers in zip(segments, lines, strict=True):
        blocks: list[Block] = []
        for number in range(int(numbers[row >= 0].max()) + 1):
            lengths = torch.bincount(row[(row >= 0) & (numbers == number)]).tolist()
            blocks += _group(lengths, len(blocks), window, packed.device)
        rows.append(blocks)
    return rows


def _group(lengths: list[int], before: int, window: int, device: torch.device) -> list[Block]:
    """Of a group whose segments have these lengths, behind `before` other blocks. Completions that are short beside the
    prompt are one block: what they compute in vain is little. A single one only goes on where the prompt ended."""
    prompt, *completions = lengths if len(lengths) > 2 else [sum(lengths)]
    blocks = [Block(prompt, None, _mask([prompt], 0, window, device) if 0 < window < prompt else None)] * (prompt > 0)
    apart = not completions or sum(completions) > prompt
    for together in [[length] for length in completions] if apart else [completions]:
        mask = _mask(together, prompt, window, device)
        blocks.append(Block(sum(together), before if prompt else None, mask))
    return [one for one in blocks if one.length]


def _mask(lengths: list[int], prompt: int, window: int, device: torch.device) -> Tensor:
    """bool [1, 1, N, prompt + N] of N tokens in runs of `lengths`, each of which follows the prompt: a token sees the
    prompt and its own run as far as itself, no further back than the window."""
    each = torch.tensor(lengths, device=device)
    run = torch.repeat_interleave(torch.arange(len(lengths), device=device), each)
    index = torch.arange(len(run), device=device)
    mask = (run[:, None] == run) & (index[:, None] >= index)
    mask = torch.cat([mask.new_ones(len(run), prompt), mask], 1)
    if window:
        logical = prompt + index - (each.cumsum(0) - each)[run]
        seen = torch.cat([torch.arange(prompt, device=device), logical])
        mask &= logical[:, None] - seen < window
    return mask[None, None]
