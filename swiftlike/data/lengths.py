"""How long sequences may be, and what is cut from those that are longer. Picture tokens are never removed."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from swiftlike.args.data import KEPT_PROMPT
from swiftlike.datasets_registry.card import BadRow

Ids = NDArray[np.int32]
Flags = NDArray[np.bool_]
Places = NDArray[np.intp]
TEXT = -1  # owner of a token that belongs to no picture
DEFAULT_TEXT = 2048  # text tokens allowed when --max_length is not given


@dc.dataclass(frozen=True, slots=True)
class Tokens:
    """One of a row's K sequences before prompt and completion are told apart. The completion begins at `start`."""

    ids: Ids
    counted: Flags
    owner: Ids  # index of the picture a token belongs to, or TEXT
    start: int

    def without(self, gone: Places) -> Tokens:
        """The sequence with the tokens at some places removed."""
        if not len(gone):
            return self
        counted = np.delete(self.counted, gone)
        counted[:1] = False  # nothing predicts the first token
        start = self.start - int((gone < self.start).sum())
        return Tokens(np.delete(self.ids, gone), counted, np.delete(self.owner, gone), start)


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
        rows = [self._end(one, one.start + (self.completion or len(one.ids))) for one in rows]
        if self._excess(rows) <= 0 and (self.strategy in KEEP or self._prompt_excess(rows) <= 0):
            return rows
        rows = _STRATEGIES[self.strategy](self, rows)
        if (excess := self._excess(rows)) > 0:
            raise BadRow("longer than max_length", f"{excess} tokens too many after all that may be cut is cut")
        if not self.whole and not all(one.counted.any() for one in rows):
            raise BadRow("longer than max_length", "cutting would leave nothing of an answer")
        return rows

    # -- what is measured -------------------------------------------------------------------------------------------

    @property
    def _total(self) -> int:
        return self.total or DEFAULT_TEXT

    def _size(self, one: Tokens, end: int | None = None) -> int:
        """Tokens up to `end` that count towards the limit."""
        return len(one.ids[:end]) if self.total else int((one.owner[:end] == TEXT).sum())

    def _excess(self, rows: Sequence[Tokens]) -> int:
        return max(self._size(one) for one in rows) - self._total

    def _prompt_excess(self, rows: Sequence[Tokens]) -> int:
        return max(one.start for one in rows) - self.prompt if self.prompt else 0

    # -- what is cut ------------------------------------------------------------------------------------------------

    def _end(self, one: Tokens, stop: int) -> Tokens:
        """The sequence up to a place."""
        if stop >= len(one.ids):
            return one
        if (one.owner[stop:] != TEXT).any():
            raise BadRow("longer than max_length", "a picture in an answer would be cut")
        return one.without(np.arange(stop, len(one.ids)))

    def _removable(self, one: Tokens, end: int, excess: int) -> Places:
        """Text before `end` that may go, the token that stays in front apart. BadRow when there is too little of it,
        or when nothing would be left before `end`."""
        if excess <= 0:
            return np.arange(0)
        first = int(self.bos is not None and one.ids[0] == self.bos)
        places = first + np.flatnonzero(one.owner[first:end] == TEXT)
        if len(places) < excess or end <= excess:
            detail = f"{excess} tokens too many, and the prompt has {len(places)} that may be cut"
            raise BadRow("longer than max_length", detail)
        return places

    def _delete(self, rows: Sequence[Tokens]) -> list[Tokens]:
        if (excess := self._prompt_excess(rows)) > 0:
            tokens = excess + (self.prompt or 0)
            raise BadRow("longer than max_length", f"a prompt of {tokens} tokens; --max_prompt_length is {self.prompt}")
        limit = f"--max_length is {self.total}" if self.total else f"{DEFAULT_TEXT} tokens of text are allowed"
        pictures = int((rows[0].owner != TEXT).sum())
        longest = max(len(one.ids) for one in rows)
        raise BadRow("longer than max_length", f"{longest} tokens, {pictures} of them from pictures; {limit}")

    def _left(self, rows: Sequence[Tokens]) -> list[Tokens]:
        """The oldest text of the prompt, as much as the longest answer needs: what is shared stays shared."""
        return self._shared(rows, max(self._excess(rows), self._prompt_excess(rows)))

    def _shared(self, rows: Sequence[Tokens], excess: int) -> list[Tokens]:
        places = self._removable(rows[0], shared_prefix(rows), excess)[: max(excess, 0)]
        return [one.without(places) for one in rows]

    def _left_each(self, rows: Sequence[Tokens]) -> list[Tokens]:
        """The oldest text of each prompt by itself, as much as its own answer needs (EXO)."""
        cut = []
        for one in rows:
            over = one.start - self.prompt if self.prompt else 0
            excess = max(self._size(one) - self._total, over, 0)
            end = len(one.ids) if self.whole else one.start
            cut.append(one.without(self._removable(one, end, excess)[:excess]))
        return cut

    def _right(self, rows: Sequence[Tokens]) -> list[Tokens]:
        """The end of each answer; of a prompt beyond its own limit, the oldest text."""
        rows = self._shared(rows, self._prompt_excess(rows))
        return [self._end(one, len(one.ids) - max(self._size(one) - self._total, 0)) for one in rows]

    def _keep(self, rows: Sequence[Tokens]) -> list[Tokens]:
        """The prompt down to its limit, even where less would do; where that is not enough, the end of every answer
        down to what the prompt's limit leaves of the total (beta-DPO)."""
        limit = min(self.prompt or KEPT_PROMPT, self._total - 1)
        cut = []
        for one in rows:
            excess = max(self._size(one, one.start) - limit, 0)
            places = self._removable(one, one.start, excess)
            kept = places[:excess] if self.strategy == "keep_end" else places[len(places) - excess :]
            cut.append(one.without(kept))
        if self._excess(cut) <= 0:
            return cut
        return [self._end(one, one.start + self._total - limit) for one in cut]


KEEP = ("keep_end", "keep_start")
_STRATEGIES: dict[str, Callable[[Lengths, Sequence[Tokens]], list[Tokens]]] = {
    "delete": Lengths._delete,
    "left": Lengths._left,
    "left_each": Lengths._left_each,
    "right": Lengths._right,
    **dict.fromkeys(KEEP, Lengths._keep),
}


def shared_prefix(rows: Sequence[Tokens]) -> int:
    """How many leading tokens, picture identity included, all sequences share before any of them counts."""
    first = rows[0]
    shared = min(int(one.counted.argmax()) if one.counted.any() else len(one.ids) for one in rows)
    for one in rows[1:]:
        same = (one.ids[:shared] == first.ids[:shared]) & (one.owner[:shared] == first.owner[:shared])
        shared = shared if same.all() else int(same.argmin())
    return shared
