"""Rows to token sequences: one prompt and K completions, pictures expanded, lengths known, nothing decoded yet."""

from __future__ import annotations

import dataclasses as dc
import functools
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from swiftlike.data.media import MAX_BYTES, image_size
from swiftlike.data.template import Template
from swiftlike.data.vision import Adapter
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import Image, Row

Ids = NDArray[np.int32]
Flags = NDArray[np.bool_]
TEXT, DEFAULT_TEXT = -1, 2048  # no picture at this token; text tokens allowed when --max_length is not given


@dc.dataclass(frozen=True, slots=True)
class Span:
    """A stretch of tokens and the pictures in it, in token order. `counted` marks the tokens of the loss."""

    ids: Ids
    counted: Flags
    images: tuple[int, ...] = ()  # indices into the group's pictures


@dc.dataclass(frozen=True, slots=True)
class Encoded:
    """A group as tokens. Sequence k is `prompt` followed by `completions[k]`; its counted tokens lie in the latter.

    The prompt is what all K sequences have in common before the first counted token, so completions that answer
    different prompts (`rejected_images`) simply share less. `images` are the pictures, each once, `grids`
    their (rows, columns) where positions need them.
    """

    prompt: Span
    completions: tuple[Span, ...]
    images: tuple[Image, ...] = ()
    grids: tuple[tuple[int, int], ...] = ()
    scores: tuple[float, ...] = ()
    label: bool | None = None
    margin: float | None = None
    mark: str = ""
    prompt_id: str = ""
    origin: str = ""

    @property
    def shared_length(self) -> int:
        """Tokens of the shared layout: the prompt once."""
        return len(self.prompt.ids) + sum(len(one.ids) for one in self.completions)

    @property
    def longest(self) -> int:
        """Tokens of the longest of the K sequences."""
        return len(self.prompt.ids) + max(len(one.ids) for one in self.completions)


@dc.dataclass(frozen=True, kw_only=True)
class Encoder:
    """Turns rows into groups. Raises BadRow with a reason a user can act on.

    `max_length` bounds every sequence with its picture tokens; None is ms-swift's 2048 tokens of text with pictures on
    top. `truncation` is "left" (prompt text), "right" (completion), or "delete": longer rows are bad rows.
    `every` counts all assistant turns (SFT). Picture files above `max_bytes` are refused. `refuse` and `scaled` are the
    objective's word on a row's scores.
    """

    template: Template
    adapter: Adapter | None = None
    max_length: int | None = None
    truncation: str = "delete"
    every: bool = False
    max_bytes: int = MAX_BYTES
    refuse: Callable[[Sequence[float], int], tuple[str, str] | None] = lambda scores, size: None
    scaled: Callable[[Sequence[float]], Sequence[float]] = lambda scores: scores

    def __call__(self, row: Row) -> Encoded:
        """One row. K sequences are built, then split at what they share."""
        if reason := self.refuse(row.scores, row.size):
            raise BadRow(*reason)
        pictures = _Pictures(self.adapter, self.max_bytes)
        sequences = [self._sequence(row, k, pictures) for k in range(row.size)]
        shared = _shared_prefix(sequences)
        sequences = self._cut(sequences, shared)
        shared = _shared_prefix(sequences)
        return Encoded(
            prompt=_span(sequences[0], 0, shared),
            completions=tuple(_span(one, shared, len(one.ids)) for one in sequences),
            images=pictures.images,
            grids=tuple(grid for grid in pictures.grids if grid is not None),
            scores=tuple(self.scaled(row.scores)),
            label=row.label,
            margin=row.margin,
            mark=row.mark,
            prompt_id=row.prompt_id,
            origin=row.origin,
        )

    def _sequence(self, row: Row, k: int, pictures: _Pictures) -> _Sequence:
        prompt, completion = row.prompt_of(k), row.completions[k]
        if self.adapter is None and (prompt.images or completion.images):
            raise BadRow("images for a text model")
        pieces = self.template.ids(self.template.pieces(prompt, completion, self.every, row.tools))
        images = iter((*prompt.images, *completion.images))
        seen: Counter[Image] = Counter()
        ids: list[int] = []
        counted: list[bool] = []
        owner: list[int] = []
        for piece, counts in pieces:
            for token in piece:
                index, repeat = TEXT, 1
                if token == self.placeholder:
                    image = next(images, None)
                    if image is None:
                        raise BadRow("more image tags than images")
                    index, repeat = pictures.add(image, seen[image])
                    seen[image] += 1
                ids += [token] * repeat
                counted += [counts and index == TEXT] * repeat
                owner += [index] * repeat
        if next(images, None) is not None:
            raise BadRow("more images than image tags")
        counted[:1] = [False]  # nothing predicts the first token
        if not any(counted):
            raise BadRow("no tokens to train on", "the completion is empty after templating")
        return _Sequence(np.array(ids, np.int32), np.array(counted), np.array(owner, np.int32))

    @functools.cached_property
    def placeholder(self) -> int | None:
        """Id of the token that stands for one picture feature; None for text models."""
        if self.adapter is None or self.template.vision is None:
            return None
        return self.template.tokenizer.convert_tokens_to_ids(self.template.vision.placeholder)

    def _cut(self, sequences: list[_Sequence], shared: int) -> list[_Sequence]:
        """Bring every sequence within `max_length`. Picture tokens are never removed."""
        excess = max(self._length(one) for one in sequences) - (self.max_length or DEFAULT_TEXT)
        if excess <= 0:
            return sequences
        if self.truncation == "left":
            return _cut_left(sequences, shared, excess)
        if self.truncation == "right":
            return [_cut_right(one, shared, self._length(one) - (self.max_length or DEFAULT_TEXT)) for one in sequences]
        pictures = int((sequences[0].owner != TEXT).sum())
        raise BadRow(
            "longer than max_length",
            f"{max(len(one.ids) for one in sequences)} tokens, {pictures} of them from pictures; "
            + (
                f"--max_length is {self.max_length}"
                if self.max_length
                else f"{DEFAULT_TEXT} tokens of text are allowed"
            ),
        )

    def _length(self, one: _Sequence) -> int:
        return len(one.ids) if self.max_length else int((one.owner == TEXT).sum())


@dc.dataclass(frozen=True, slots=True)
class _Sequence:
    ids: Ids
    counted: Flags
    owner: Ids  # index of the picture a token belongs to, or TEXT


class _Pictures:
    """The pictures of a row with their token counts. Sequences that show the same picture share its entry; one that
    shows it twice has two, so that adjacent copies stay told apart."""

    def __init__(self, adapter: Adapter | None, max_bytes: int) -> None:
        self.adapter, self.max_bytes = adapter, max_bytes
        self.entries: dict[tuple[Image, int], tuple[int, int]] = {}
        self.grids: list[tuple[int, int] | None] = []

    @property
    def images(self) -> tuple[Image, ...]:
        """One per entry, in order of index."""
        return tuple(image for image, _ in self.entries)

    def add(self, image: Image, occurrence: int) -> tuple[int, int]:
        """(index, tokens) of the n-th appearance of a picture in a sequence."""
        key = (image, occurrence)
        if key not in self.entries:
            assert self.adapter is not None
            width, height = image_size(image, max_bytes=self.max_bytes)
            self.entries[key] = (len(self.entries), self.adapter.count(width, height))
            self.grids.append(self.adapter.grid(width, height))
        return self.entries[key]


def _shared_prefix(sequences: Sequence[_Sequence]) -> int:
    """How many leading tokens, picture identity included, all sequences share before any of them counts."""
    first = sequences[0]
    shared = min(int(one.counted.argmax()) for one in sequences)
    for one in sequences[1:]:
        same = (one.ids[:shared] == first.ids[:shared]) & (one.owner[:shared] == first.owner[:shared])
        shared = shared if same.all() else int(same.argmin())
    return shared


def _span(one: _Sequence, start: int, stop: int) -> Span:
    owner = one.owner[start:stop]
    starts = owner[np.flatnonzero(np.diff(owner, prepend=TEXT) != 0)] if len(owner) else owner
    return Span(one.ids[start:stop], one.counted[start:stop], tuple(int(i) for i in starts if i != TEXT))


def _cut_left(sequences: list[_Sequence], shared: int, excess: int) -> list[_Sequence]:
    """Drop the oldest text of the shared prompt, its first token (BOS) apart."""
    removable = np.flatnonzero(sequences[0].owner[1:shared] == TEXT) + 1
    if len(removable) <= excess:
        raise BadRow("longer than max_length", f"cutting the prompt's text ({len(removable)} tokens) is not enough")
    gone = removable[:excess]
    return [
        _Sequence(np.delete(one.ids, gone), np.delete(one.counted, gone), np.delete(one.owner, gone))
        for one in sequences
    ]


def _cut_right(one: _Sequence, shared: int, excess: int) -> _Sequence:
    """Drop the end of a completion."""
    if excess <= 0:
        return one
    stop = len(one.ids) - excess
    if stop <= shared or not one.counted[:stop].any() or (one.owner[stop:] != TEXT).any():
        raise BadRow("longer than max_length", "cutting the completion would leave nothing of it, or cut a picture")
    return _Sequence(one.ids[:stop], one.counted[:stop], one.owner[:stop])
