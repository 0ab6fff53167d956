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
    """A prompt and what follows it, one token after another; `start` is where in the flat batch they begin."""

    spans: tuple[Span, ...]
    segments: tuple[int, ...]
    slots: tuple[int, ...]  # slot of each span's counted tokens, -1 for the prompt
    item: int
    parallel: bool  # whether the spans after the first are alternatives to one another
    start: int = 0

    def __len__(self) -> int:
        return sum(len(span.ids) for span in self.spans)

    @property
    def prompt_end(self) -> int:
        """The flat position behind the prompt."""
        return self.start + len(self.spans[0].ids)


def targets(lines: Sequence[Line]) -> dict[str, torch.Tensor]:
    """Counted tokens: where each is predicted, its id, and the slot of its log-probability."""
    predict, ids, slots = [], [], []
    for line in lines:
        last = line.prompt_end - 1
        start = line.prompt_end
        for span, slot in zip(line.spans[1:], line.slots[1:], strict=True):
            counted = np.flatnonzero(span.counted)
            source = start + counted - 1
            predict.append(np.where(counted == 0, last, source))
            ids.append(span.ids[counted])
            slots.append(np.full(len(counted), slot))
            start += len(span.ids)
    return {
        "predict": _flat(predict),
        "targets": _flat(ids),
        "slots": _flat(slots),
    }


def pools(lines: Sequence[Line], pooling: str, ends: frozenset[int]) -> dict[str, torch.Tensor]:
    """The positions that a reward is read from, and the slot of each."""
    places, slots = [], []
    for line in lines:
        prompt = line.prompt_end
        start = prompt
        for span, slot in zip(line.spans[1:], line.slots[1:], strict=True):
            own = np.arange(start, start + len(span.ids))
            start += len(span.ids)
            if pooling in ("mean", "max"):
                found = np.concatenate([np.arange(line.start, prompt), own])
            else:
                before = pooling == "last" and len(own) > 0 and int(span.ids[-1]) in ends
                found = np.concatenate([[prompt - 1], own])[-2 if before else -1 :][:1]
            places.append(found)
            slots.append(np.full(len(found), slot))
    return {"pool_at": _flat(places), "pool_slots": _flat(slots)}


def prompts(lines: Sequence[Line], placeholder: int | None) -> dict[str, torch.Tensor]:
    """Text tokens of each group's prompt, the first one apart: nothing predicts it."""
    predict, targets, rows, seen = [], [], [], set()
    for line in lines:
        if line.item in seen:
            continue
        seen.add(line.item)
        ids = line.spans[0].ids
        places = np.arange(1, len(ids))
        places = places[ids[1:] != (placeholder if placeholder is not None else -1)]
        predict.append(line.start + places - 1)
        targets.append(ids[places])
        rows.append(np.full(len(places), line.item))
    return {
        "prompt_predict": _flat(predict),
        "prompt_targets": _flat(targets),
        "prompt_rows": _flat(rows),
    }


def positions(
    lines: Sequence[Line], groups: Sequence[Encoded], shape: tuple[int, int], picture: int | None
) -> torch.Tensor:
    """Positions [R, T], or [3, R, T] of M-RoPE where `picture` is the token of a picture's features."""
    mrope = picture is not None
    out = np.zeros((3 if mrope else 1, shape[0] * shape[1]), np.int64)
    place = functools.partial(_grid, picture=picture) if mrope else _line
    for line in lines:
        group = groups[line.item]
        out[:, line.start : line.prompt_end], begin = place(line.spans[0], group, 0)
        column = line.prompt_end
        for span in line.spans[1:]:
            out[:, column : column + len(span.ids)], after = place(span, group, begin)
            column += len(span.ids)
            begin = begin if line.parallel else after
    return torch.from_numpy(out.reshape(-1, *shape) if mrope else out.reshape(shape))


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
