"""Groups to one batch of tensors, in the layout the model supports. Nothing after this knows which layout it was.

Shared layout: a group is one row `[prompt | completion 1 | ... | completion K]`. Every completion's positions start
where the prompt ended; its first token is predicted by the prompt's last one. Split layout: a group is K rows of
`[prompt | completion]`. Both name, for every counted token, the flat position whose hidden state predicts it, and the
slot b * K + k that its log-probability belongs to. Rows are padded to one length, or laid end to end as a single one.
"""

from __future__ import annotations

import dataclasses as dc
import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from swiftlike.data.encode import Encoded, Span
from swiftlike.data.places import Line, pools, positions, prompts, targets
from swiftlike.data.vision import Adapter, Pixels
from swiftlike.datasets_registry.row import Image

PAD = -1  # segment of padding; 0 is the prompt, k + 1 completion k
ADVERSARIAL = "apo"  # the mark of groups that set a golden answer against samples


@dc.dataclass(frozen=True, slots=True)
class Item:
    """One group of a batch. `pictures` are tensors per entry of `group.images`.

    `partner` is the group whose completion KTO pairs with this prompt to estimate its KL term. `real` is False for
    the filler that makes batches of several ranks equal: it is computed, but counts nowhere.
    """

    group: Encoded
    pictures: tuple[Pixels, ...] = ()
    partner: Encoded | None = None
    real: bool = True


@dc.dataclass(frozen=True, slots=True)
class StandIn:
    """A picture for batches that have none, where all ranks must run the same modules (ZeRO-3, FSDP, trained towers).
    It costs `tokens` columns of padding and changes no number."""

    pixels: Pixels
    tokens: int


@dc.dataclass(frozen=True, kw_only=True)
class Collator:
    """`(items) -> dict of tensors`, all of it either flat or padded on the right.

    | key | shape | |
    | --- | --- | --- |
    | input_ids | [R, T] | R rows |
    | segments | [R, T] | -1 pad, 0 prompt, k + 1 completion; where a row has one completion `attention_mask` instead |
    | lines | [1, T] | only where rows are laid end to end: the number of each token's row |
    | position_ids | [R, T] or [3, R, T] | |
    | predict, targets, slots | [N] | flat position r * T + t, id it predicts, slot of the log-probability |
    | tokens, present | [B, K] | counted tokens, which completions exist |
    | prompt_predict, prompt_targets, prompt_rows | [M] | prompt tokens, only with `prompt_nll` |
    | pool_at, pool_slots | [P] | instead of predict, targets, slots with `pooling`: flat positions whose hidden states
    a reward is read from, and the slot of each |
    | origins | B texts | where the rows stand in the data, only with `origins` |
    | keys | B lists of K | what a sequence's reference log-probability is stored under, only with `keys` |
    | scores [B, K]; label, margin, adversarial, real [B] | | what the data says |

    `pooling` of reward models: "eos" the last token, "last" the one before the end token (an id of `ends`), "mean" and
    "max" all tokens of prompt and completion.

    `end_to_end` is the length of a batch's longest row from which its rows are laid end to end; None: never. The split
    layout then has neither segments nor a mask: var-len kernels find its rows by the positions that begin again.
    """

    pad_id: int
    layout: str
    adapter: Adapter | None = None
    placeholder: int | None = None
    prompt_nll: bool = False
    keys: bool = False
    origins: bool = False
    stand_in: StandIn | None = None
    pooling: str | None = None
    ends: frozenset[int] = frozenset()
    end_to_end: int | None = None

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        """One batch."""
        origins = [_origin(item) for item in items]
        items = [self._with_partner(item) for item in items]
        size = max(len(item.group.completions) for item in items)
        lines = [line for b, item in enumerate(items) for line in self._lines(b, item, size)]
        pixels = self._pixels(items, lines)
        lines, shape = self._placed(lines, self.stand_in.tokens if self.stand_in and not pixels else 0)
        batch = self._tokens(lines, shape)
        picture = self.placeholder if self.adapter is not None and self.adapter.mrope else None
        batch["position_ids"] = positions(lines, [item.group for item in items], shape, picture)
        batch |= pools(lines, self.pooling, self.ends) if self.pooling else targets(lines)
        batch |= self._facts(items, size)
        batch |= pixels or self._stand_in(batch["input_ids"])
        if self.prompt_nll:
            batch |= prompts(lines, self.placeholder)
        if self.origins:
            batch["origins"] = origins
        if self.keys:
            batch["keys"] = [_keys(item.group) for item in items]
        return batch

    def _with_partner(self, item: Item) -> Item:
        """KTO: the partner's completion becomes a second one behind this prompt. Its pictures do not come along."""
        if item.partner is None:
            return item
        other = item.partner.completions[0]
        keep = np.isin(other.ids, [self.placeholder], invert=True) if other.images else slice(None)
        borrowed = Span(other.ids[keep], other.counted[keep])
        group = dc.replace(item.group, completions=(*item.group.completions, borrowed))
        return dc.replace(item, group=group, partner=None)

    def _lines(self, b: int, item: Item, size: int) -> list[Line]:
        group, first = item.group, b * size
        ks = range(len(group.completions))
        if self.layout == "shared":
            slots = (-1, *(first + k for k in ks))
            return [Line((group.prompt, *group.completions), (0, *(k + 1 for k in ks)), slots, b, True)]
        return [Line((group.prompt, group.completions[k]), (0, 1), (-1, first + k), b, False) for k in ks]

    def _placed(self, lines: list[Line], spare: int) -> tuple[list[Line], tuple[int, int]]:
        """Lines with their starts, and the shape [R, T] of their batch, with `spare` columns of padding at its end."""
        sizes = [len(line) for line in lines]
        longest = max(sizes)
        if self.end_to_end is None or longest < self.end_to_end:
            starts, shape = range(0, len(lines) * (longest + spare), longest + spare), (len(lines), longest + spare)
        else:
            starts, shape = [0, *itertools.accumulate(sizes)], (1, sum(sizes) + spare)
        return [dc.replace(line, start=start) for line, start in zip(lines, starts, strict=False)], shape

    def _tokens(self, lines: list[Line], shape: tuple[int, int]) -> dict[str, torch.Tensor]:
        size = shape[0] * shape[1]
        ids, segments, numbers = np.full(size, self.pad_id), np.full(size, PAD), np.full(size, len(lines))
        for number, line in enumerate(lines):
            start = line.start
            numbers[start : start + len(line)] = number
            for span, segment in zip(line.spans, line.segments, strict=True):
                stop = start + len(span.ids)
                ids[start:stop], segments[start:stop] = span.ids, segment
                start = stop
        ids, segments = ids.reshape(shape), segments.reshape(shape)
        batch = {"input_ids": torch.from_numpy(ids)}
        if shape[0] < len(lines):
            if self.layout == "shared":
                batch |= {"segments": torch.from_numpy(segments), "lines": torch.from_numpy(numbers[None])}
        elif all(len(line.spans) <= 2 for line in lines):  # one completion a row: ordinary causal attention
            batch["attention_mask"] = torch.from_numpy((segments != PAD).astype(np.int64))
        else:
            batch["segments"] = torch.from_numpy(segments)
        return batch

    def _facts(self, items: Sequence[Item], size: int) -> dict[str, torch.Tensor]:
        tokens = torch.zeros(len(items), size, dtype=torch.long)
        for b, item in enumerate(items):
            for k, span in enumerate(item.group.completions):
                tokens[b, k] = int(span.counted.sum())
        facts = {"tokens": tokens, "present": tokens > 0, "real": torch.tensor([item.real for item in items])}
        groups = [item.group for item in items]
        if groups[0].scores:
            facts["scores"] = torch.tensor([[*g.scores, *[0.0] * (size - len(g.scores))] for g in groups])
        if groups[0].label is not None:
            facts["label"] = torch.tensor([bool(g.label) for g in groups])
        if any(g.mark for g in groups):
            facts["adversarial"] = torch.tensor([g.mark == ADVERSARIAL for g in groups])
        if any(g.margin is not None for g in groups):
            facts["margin"] = torch.tensor([g.margin or 0.0 for g in groups])
        return facts

    def _pixels(self, items: Sequence[Item], lines: list[Line]) -> Pixels:
        """Pictures in token order. The split layout shows a prompt's pictures once per row."""
        if self.adapter is None:
            return {}
        order = [items[line.item].pictures[i] for line in lines for span in line.spans for i in span.images]
        return self.adapter.join(order) if order else {}

    def _stand_in(self, ids: torch.Tensor) -> Pixels:
        """A blank picture in the padding behind the first row: nothing attends to it, but the tower runs."""
        if self.stand_in is None or self.adapter is None:
            return {}
        ids[0, -self.stand_in.tokens :] = self.placeholder
        return self.adapter.join([self.stand_in.pixels])


def _origin(item: Item) -> str:
    if item.partner is None:
        return item.group.origin
    return f"{item.group.origin} (and the answer of {item.partner.origin})"


def _keys(group: Encoded) -> list[bytes]:
    """A digest of each of the K sequences: ids, which of them count, and the pictures it shows, in order."""
    pictures = [_picture_digest(image) for image in group.images]
    keys = []
    for one in group.completions:
        digest = hashlib.blake2b(digest_size=16)
        for i in (*group.prompt.images, *one.images):
            digest.update(pictures[i])
        for array in (group.prompt.ids, one.ids, one.counted):
            digest.update(b"|" + array.tobytes())
        keys.append(digest.digest())
    return keys


def _picture_digest(image: Image) -> bytes:
    """What tells a picture from others: its bytes, or its address, and for a file its size and time as well."""
    source = image.source
    digest = hashlib.blake2b(source if isinstance(source, bytes) else source.encode(), digest_size=16)
    if isinstance(source, str) and len(source) < 4096 and (path := Path(source)).is_file():
        digest.update(f"|{path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    return digest.digest()
