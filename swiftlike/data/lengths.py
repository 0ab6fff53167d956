"""How long sequences may be, and what is cut from those that are longer. Picture tokens are never removed."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from swiftlike.datasets_registry.card import BadRow

Ids = NDArray[np.int32]
Flags = NDArray[np.bool_]
TEXT = -1  # owner of a token that belongs to no picture
DEFAULT_TEXT = 2048  # text tokens allowed when --max_length is not given
DEFAULT_PROMPT = 256  # what keep_end and keep_start leave of a prompt when --max_prompt_length is not given


@dc.dataclass(frozen=True, slots=True)
class Tokens:
    """One of a row's K sequences before prompt and completion are told apart. The completion begins at `start`."""

    ids: Ids
    counted: Flags
    owner: Ids  # index of the picture a token belongs to, or TEXT
    start: int

    def without(self, gone: NDArray[np.intp]) -> Tokens:
        """The sequence with the tokens at some places removed."""
        if not len(gone):
            return self
        counted = np.delete(self.counted, gone)
        counted[:1] = False  # nothing predicts the first token
        start = self.start - int((gone < self.start).sum())
        return Tokens(np.delete(self.ids, gone), counted, np.delete(self.owner, gone), start)

    def text(self, begin: int, end: int) -> NDArray[np.intp]:
        """Places of text tokens in a stretch."""
        return begin + np.flatnonzero(self.owner[begin:end] == TEXT)


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """The limits of one run, in tokens, and what becomes of longer sequences.

    `total` bounds a sequence with its pictures; None is 2048 tokens of text, pictures on top. `prompt` and
    `completion` bound the parts. `bos` is the token that stays where the beginning of a prompt is cut, None for none.
    `whole`: sequences are read as wholes (reward models), so that a cut may go beyond the border of its part.
    """

    total: int | None = None
    prompt: int | None = None
    completion: int | None = None
    strategy: str = "delete"
    bos: int | None = None
    whole: bool = False

    def cut(self, rows: Sequence[Tokens]) -> list[Tokens]:
        """Bring the K sequences of a row within the limits. BadRow when that is not possible, or not wanted."""
        rows = [self._end(one, self.completion) for one in rows]
        if self._excess(rows) <= 0 and (self.strategy in _KEEP or self._prompt_excess(rows) <= 0):
            return rows
        rows = _STRATEGIES[self.strategy](self, rows)
        if (excess := self._excess(rows)) > 0:
            raise BadRow("longer than max_length", f"{excess} tokens too many after all that may be cut is cut")
        if not self.whole and not all(one.counted.any() for one in rows):
            raise BadRow("longer than max_length", "nothing of an answer would be left")
        return rows

    # -- what is measured -------------------------------------------------------------------------------------------

    @property
    def _total(self) -> int:
        return self.total or DEFAULT_TEXT

    def _size(self, one: Tokens, end: int | None = None) -> int:
        """Tokens of a sequence up to `end` that the limit is on."""
        return len(one.ids[:end]) if self.total else int((one.owner[:end] == TEXT).sum())

    def _excess(self, rows: Sequence[Tokens]) -> int:
        return max(self._size(one) for one in rows) - self._total

    def _prompt_excess(self, rows: Sequence[Tokens]) -> int:
        return max(one.start for one in rows) - self.prompt if self.prompt else 0

    def _first(self, one: Tokens) -> int:
        """The first token that may go when the beginning is cut."""
        return int(self.bos is not None and len(one.ids) > 0 and one.ids[0] == self.bos)

    # -- what is cut ------------------------------------------------------------------------------------------------

    def _end(self, one: Tokens, limit: int | None) -> Tokens:
        """The completion without what exceeds `limit`; with `whole`, BadRow apart, even all of it."""
        stop = len(one.ids) if limit is None else one.start + limit
        if (one.owner[stop:] != TEXT).any():
            raise BadRow("longer than max_length", "a picture in an answer would be cut")
        return one.without(np.arange(stop, len(one.ids)))

    def _beginning(self, one: Tokens, excess: int, *, newest: bool = False) -> Tokens:
        """The prompt without `excess` tokens of text: its oldest ones, or its newest."""
        if excess <= 0:
            return one
        places = one.text(self._first(one), one.start)
        if self.whole and not newest:
            places = one.text(self._first(one), len(one.ids))
        elif len(places) < excess or one.start <= excess:
            raise BadRow(
                "longer than max_length",
                f"{excess} tokens too many, and the prompt has only {len(places)} of text that may be cut",
            )
        return one.without(places[-excess:] if newest else places[:excess])

    def _delete(self, rows: list[Tokens]) -> list[Tokens]:
        if (excess := self._prompt_excess(rows)) > 0:
            tokens = excess + (self.prompt or 0)
            raise BadRow("longer than max_length", f"a prompt of {tokens} tokens; --max_prompt_length is {self.prompt}")
        limit = f"--max_length is {self.total}" if self.total else f"{DEFAULT_TEXT} tokens of text are allowed"
        pictures = int((rows[0].owner != TEXT).sum())
        longest = max(len(one.ids) for one in rows)
        raise BadRow("longer than max_length", f"{longest} tokens, {pictures} of them from pictures; {limit}")

    def _left(self, rows: list[Tokens]) -> list[Tokens]:
        """The same beginning of all K prompts, so that what they share stays shared."""
        return self._shared(rows, max(self._excess(rows), self._prompt_excess(rows)))

    def _shared(self, rows: list[Tokens], excess: int) -> list[Tokens]:
        shared = shared_prefix(rows)
        prompt = dc.replace(rows[0], start=shared)
        kept = self._beginning(dc.replace(prompt, ids=prompt.ids), excess) if not self.whole else prompt
        if self.whole and excess > 0:
            kept = dc.replace(self, whole=False)._beginning(prompt, excess)
        places = prompt.text(self._first(prompt), shared)[: shared - kept.start]
        return [one.without(places) for one in rows]

    def _left_each(self, rows: list[Tokens]) -> list[Tokens]:
        """Each prompt by itself, as far as its own answer needs (EXO)."""
        limit = self.prompt or max(one.start for one in rows)
        return [self._beginning(one, max(self._size(one) - self._total, one.start - limit)) for one in rows]

    def _right(self, rows: list[Tokens]) -> list[Tokens]:
        rows = self._shared(rows, self._prompt_excess(rows))
        return [self._end(one, len(one.ids) - one.start - max(self._size(one) - self._total, 0)) for one in rows]

    def _keep(self, rows: list[Tokens], newest: bool) -> list[Tokens]:
        limit = self.prompt or DEFAULT_PROMPT
        rows = [self._beginning(one, self._size(one, one.start) - limit, newest=newest) for one in rows]
        return rows if self._excess(rows) <= 0 else [self._end(one, self._total - limit) for one in rows]
