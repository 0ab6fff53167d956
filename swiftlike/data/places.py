"""Where things are in a batch: the tokens that count and what predicts them, rewards' positions, position ids."""

from __future__ import annotations

import dataclasses as dc
import functools
from collections.abc import Sequence

import numpy as np
import torch

from swiftlike.data.encode import Encoded, Span


@dc.dataclass(frozen=True, slots=True)
class Line:
    """One row of tensors before padding."""

    spans: tuple[Span, ...]
    segments: tuple[int, ...]
    slots: tuple[int, ...]  # slot of each span's counted tokens, -1 for the prompt
    item: int
    parallel: bool  # whether the spans after the first are alternatives to one another


def targets(lines: Sequence[Line], length: int) -> dict[str, torch.Tensor]:
    """Counted tokens: where each is predicted, its id, and the slot of its log-probability."""
    predict, ids, slots = [], [], []
    for r, line in enumerate(lines):
        last = r * length + len(line.spans[0].ids) - 1  # the prompt's last token
        start = len(line.spans[0].ids)
        for span, slot in zip(line.spans[1:], line.slots[1:], strict=True):
            counted = np.flatnonzero(span.counted)
            source = r * length + start + counted - 1
            predict.append(np.where(counted == 0, last, source))
            ids.append(span.ids[counted])
            slots.append(np.full(len(counted), slot))
            start += len(span.ids)
    return {
        "predict": _flat(predict),
        "targets": _flat(ids),
        "slots": _flat(slots),
    }


def pools(lines: Sequence[Line], length: int, pooling: str, ends: frozenset[int]) -> dict[str, torch.Tensor]:
    """The positions that a reward is read from, and the slot of each."""
    places, slots = [], []
    for r, line in enumerate(lines):
        prompt = len(line.spans[0].ids)
        start = prompt
        for span, slot in zip(line.spans[1:], line.slots[1:], strict=True):
            own = np.arange(start, start + len(span.ids))
            start += len(span.ids)
            if pooling in ("mean", "max"):
                found = np.concatenate([np.arange(prompt), own])
            else:
                before = pooling == "last" and len(own) > 0 and int(span.ids[-1]) in ends
                found = np.concatenate([[prompt - 1], own])[-2 if before else -1 :][:1]
            places.append(r * length + found)
            slots.append(np.full(len(found), slot))
    return {"pool_at": _flat(places), "pool_slots": _flat(slots)}


def prompts(lines: Sequence[Line], length: int, placeholder: int | None) -> dict[str, torch.Tensor]:
    """Text tokens of each group's prompt, the first one apart: nothing predicts it."""
    predict, targets, rows, seen = [], [], [], set()
    for r, line in enumerate(lines):
        if line.item in seen:
            continue
        seen.add(line.item)
        ids = line.spans[0].ids
        places = np.arange(1, len(ids))
        places = places[ids[1:] != (placeholder if placeholder is not None else -1)]
        predict.append(r * length + places - 1)
        targets.append(ids[places])
        rows.append(np.full(len(places), line.item))
    return {
        "prompt_predict": _flat(predict),
        "prompt_targets": _flat(targets),
        "prompt_rows": _flat(rows),
    }


def positions(lines: Sequence[Line], groups: Sequence[Encoded], length: int, picture: int | None) -> torch.Tensor:
    """Positions [R, T], or [3, R, T] of M-RoPE where `picture` is the token of a picture's features."""
    mrope = picture is not None
    out = np.zeros((3 if mrope else 1, len(lines), length), np.int64)
    place = functools.partial(_grid, picture=picture) if mrope else _line
    for r, line in enumerate(lines):
        group = groups[line.item]
        column, ids = 0, line.spans[0]
        values, after = place(ids, group, 0)
        out[:, r, : len(ids.ids)] = values
        column, begin = len(ids.ids), after
        for span in line.spans[1:]:
            values, after = place(span, group, begin)
            out[:, r, column : column + len(span.ids)] = values
            column += len(span.ids)
            begin = begin if line.parallel else after
    return torch.from_numpy(out if mrope else out[0])


def _grid(span: Span, group: Encoded, start: int, picture: int | None) -> tuple[np.ndarray, int]:
    """M-RoPE: text advances all three axes together; a picture's rows and columns spread over the last two, and
    what follows continues after its largest position."""
    out = np.zeros((3, len(span.ids)), np.int64)
    shown = span.ids == picture
    images, t, at = iter(span.images), 0, start
    while t < len(span.ids):
        if shown[t]:
            rows, columns = group.grids[next(images)]
            n = rows * columns
            out[:, t : t + n] = at + np.stack([np.zeros(n), np.arange(n) // columns, np.arange(n) % columns])
            at += max(rows, columns)
        else:
            n = int(shown[t:].argmax()) or len(span.ids) - t
            out[:, t : t + n] = at + np.arange(n)
            at += n
        t += n
    return out, at


def _line(span: Span, group: Encoded, start: int) -> tuple[np.ndarray, int]:
    """Ordinary positions."""
    return np.arange(start, start + len(span.ids)), start + len(span.ids)


def _flat(parts: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))
