"""Rows to token sequences: one prompt and K completions, pictures expanded, lengths known, nothing decoded yet."""

from __future__ import annotations

import dataclasses as dc
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from swiftlike.data.lengths import TEXT, Flags, Ids, Lengths, Tokens, shared_prefix
from swiftlike.data.media import MAX_BYTES, image_size
from swiftlike.data.template import Template
from swiftlike.data.vision import Adapter
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import Image, Row


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

    `max_length`, `max_prompt_length`, `max_completion_length`, `truncation` and `whole` are those of `lengths.Lengths`.
    `every` counts all assistant turns (SFT); the completion is then the last of them. Picture files above `max_bytes`
    are refused. `refuse` and `scaled` are the objective's word on a row's scores.
    """

    template: Template
    adapter: Adapter | None = None
    max_length: int | None = None
    max_prompt_length: int | None = None
    max_completion_length: int | None = None
    truncation: str = "delete"
    whole: bool = False
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
        sequences = self.lengths.cut(sequences)
        shared = shared_prefix(sequences)
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

    def _sequence(self, row: Row, k: int, pictures: _Pictures) -> Tokens:
        prompt, completion = row.prompt_of(k), row.completions[k]
        if self.adapter is None and (prompt.images or completion.images):
            raise BadRow("images for a text model")
        pieces = self.template.ids(self.template.pieces(prompt, completion, self.every, row.tools))
        begun = [i for i, (_, counts) in enumerate(pieces) if counts]
        if begun:
            first = begun[-1 if self.every else 0]
            images = (*prompt.images, *completion.images)
            tokens = _expanded(pieces, first, pictures, images, self.placeholder)
            tokens.counted[:1] = False  # nothing predicts the first token
            if tokens.counted.any():
                return tokens
        raise BadRow("no tokens to train on", "the completion is empty after templating")

    @functools.cached_property
    def lengths(self) -> Lengths:
        """What bounds the sequences."""
        return Lengths(
            total=self.max_length,
            prompt=self.max_prompt_length,
            completion=self.max_completion_length,
            strategy=self.truncation,
            bos=self.template.kept_bos,
            whole=self.whole,
        )

    @functools.cached_property
    def placeholder(self) -> int | None:
        """Id of the token that stands for one picture feature; None for text models."""
        if self.adapter is None or self.template.vision is None:
            return None
        return self.template.tokenizer.convert_tokens_to_ids(self.template.vision.placeholder)


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


def _expanded(
    pieces: Sequence[tuple[list[int], bool]],
    first: int,
    pictures: _Pictures,
    images: Sequence[Image],
    placeholder: int | None,
) -> Tokens:
    """One sequence, each placeholder repeated as often as its picture has features. The completion begins at piece
    `first`. BadRow unless there is one placeholder for each of `images`."""
    lengths = [len(ids) for ids, _ in pieces]
    ids = np.fromiter(itertools.chain.from_iterable(ids for ids, _ in pieces), np.int32, sum(lengths))
    counted = np.repeat([counts for _, counts in pieces], lengths)
    owner = np.full(len(ids), TEXT, np.int32)
    start = sum(lengths[:first])
    places = () if placeholder is None else np.flatnonzero(ids == placeholder)
    if len(places) != len(images):
        more = "image tags than images" if len(places) > len(images) else "images than image tags"
        raise BadRow(f"more {more}")
    if not len(images):
        return Tokens(ids, counted, owner, start)
    repeats, seen = np.ones(len(ids), np.int64), Counter[Image]()
    for place, image in zip(places, images, strict=True):
        owner[place], repeats[place] = pictures.add(image, seen[image])
        seen[image] += 1
    ids, counted, owner = (np.repeat(column, repeats) for column in (ids, counted, owner))
    return Tokens(ids, counted & (owner == TEXT), owner, int(repeats[:start].sum()))


def _span(one: Tokens, start: int, stop: int) -> Span:
    owner = one.owner[start:stop]
    if (owner == TEXT).all():
        return Span(one.ids[start:stop], one.counted[start:stop])
    starts = owner[np.flatnonzero(np.diff(owner, prepend=TEXT) != 0)]
    return Span(one.ids[start:stop], one.counted[start:stop], tuple(int(i) for i in starts if i != TEXT))
