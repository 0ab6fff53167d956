"""Groups as a few flat arrays, in memory or mapped from files: many rows cost what their tokens cost, and no objects.

A row has spans (its prompt, then its completions), a span has tokens. Rows that could not be encoded have no span.
What few rows have (pictures, marks, scores that are whole numbers) stands in a note of JSON.
"""

from __future__ import annotations

import dataclasses as dc
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from swiftlike.data.encode import Encoded, Span
from swiftlike.data.packing import COLUMNS, KEPT, NO_LABEL, STARTS, Packer, Places, finished, picture, starts
from swiftlike.data.seen import stretches

Arrays = Mapping[str, NDArray[Any]]
_CHUNK = 1 << 14  # groups that a digest looks at together


class Brief(NamedTuple):
    """What objectives look at before training."""

    label: bool | None
    scores: tuple[float, ...]
    mark: str
    prompt_id: str


class Packed(Sequence[Encoded]):
    """Groups made from arrays when they are asked for: the rows `places` of `columns`, in that order.

    With `folder` the columns are mapped from its files, and other processes map the same ones.
    """

    def __init__(self, columns: Arrays, places: Places | None = None, folder: Path | None = None) -> None:
        self.columns, self.folder = columns, folder
        self.places = np.flatnonzero(np.diff(columns["span_at"])) if places is None else np.asarray(places, np.int64)

    @classmethod
    def of(cls, groups: Iterable[Encoded], decides: Callable[[Encoded], bool] = lambda group: True) -> Packed:
        """Groups that are there already, in memory."""
        packer = Packer()
        for group in groups:
            packer.add(group, decides(group))
        return cls(finished(packer.arrays()))

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.take(self.places[index])
        return self._group(int(self.places[index]))

    def __iter__(self) -> Iterator[Encoded]:
        return (self._group(place) for place in self.places.tolist())

    def __reduce__(self) -> Any:
        return (opened, (self.folder, self.places)) if self.folder else (Packed, (dict(self.columns), self.places))

    def take(self, places: Places) -> Packed:
        """Other rows of the same columns."""
        return Packed(self.columns, places, self.folder)

    def _group(self, row: int) -> Encoded:
        columns = self.columns
        first, end = columns["span_at"][row : row + 2].tolist()
        borders = columns["token_at"][first : end + 1].tolist()
        note = self._note(row)
        shown = note.get("shown") or ((),) * (end - first)
        ids, counted = columns["ids"], columns["counted"]
        spans = [
            Span(ids[start:stop], counted[start:stop], tuple(images))
            for start, stop, images in zip(borders, borders[1:], shown, strict=False)
        ]
        brief = self._brief(row, note)
        return Encoded(
            prompt=spans[0],
            completions=tuple(spans[1:]),
            images=tuple(map(picture, note.get("images", ()))),
            grids=tuple(tuple(grid) for grid in note.get("grids", ())),
            scores=brief.scores,
            label=brief.label,
            margin=self._margin(row, note),
            mark=brief.mark,
            prompt_id=brief.prompt_id,
            origin=self.origin(row),
        )

    def _note(self, row: int) -> dict[str, Any]:
        text = self._text("note", row)
        return json.loads(text) if text else {}

    def _text(self, name: str, row: int) -> bytes:
        start, end = self.columns[f"{name}_at"][row : row + 2].tolist()
        return self.columns[f"{name}s"][start:end].tobytes() if end > start else b""

    def _brief(self, row: int, note: Mapping[str, Any]) -> Brief:
        start, end = self.columns["score_at"][row : row + 2].tolist()
        scores = self.columns["scores"][start:end].tolist() if end > start else note.get("scores", ())
        label = int(self.columns["label"][row])
        said = None if label == NO_LABEL else bool(label)
        return Brief(said, tuple(scores), note.get("mark", ""), note.get("prompt_id", ""))

    def origin(self, row: int) -> str:
        """Where a row of the columns stands in the data."""
        return self._text("origin", row).decode("utf-8", "surrogatepass")

    @property
    def briefs(self) -> Sequence[Brief]:
        """What objectives look at, of every row, without its tokens."""
        return _Briefs(self)

    def fold(self, out: Any) -> None:
        """Feed a hash with what tells the groups from others: labels and the like, pictures, marks, token ids."""
        columns, plain = self.columns, {}
        for start in range(0, len(self), _CHUNK):
            rows = self.places[start : start + _CHUNK]
            tokens = [columns["token_at"][columns["span_at"][one]].tolist() for one in (rows, rows + 1)]
            special = columns["has_margin"][rows].copy()
            for name in ("score_at", "note_at"):
                special |= columns[name][rows + 1] > columns[name][rows]
            labels = columns["label"][rows].tolist()
            for row, begin, end, label, own in zip(rows.tolist(), *tokens, labels, special.tolist(), strict=True):
                if own or label not in plain:
                    facts = self._facts(row)
                    plain |= {} if own else {label: facts}
                out.update(facts if own else plain[label])
                out.update(columns["ids"][begin:end])

    def _facts(self, row: int) -> bytes:
        note = self._note(row)
        brief = self._brief(row, note)
        images = tuple(map(picture, note.get("images", ())))
        return repr((brief.label, brief.scores, self._margin(row, note), images)).encode() + brief.mark.encode()

    def _margin(self, row: int, note: Mapping[str, Any]) -> float | None:
        return float(self.columns["margin"][row]) if self.columns["has_margin"][row] else note.get("margin")

    # -- lengths, without a look at the tokens ------------------------------------------------------------------------

    @functools.cached_property
    def _first(self) -> Places:
        return self.columns["span_at"][self.places]

    @functools.cached_property
    def sizes(self) -> Places:
        """[n] completions of each group."""
        return self.columns["span_at"][self.places + 1] - self._first - 1

    @property
    def shared_lengths(self) -> Places:
        """[n] tokens of the shared layout: the prompt once."""
        at = self.columns["token_at"]
        return at[self._first + self.sizes + 1] - at[self._first]

    @property
    def prompt_lengths(self) -> Places:
        """[n] tokens of each prompt."""
        return self.columns["token_at"][self._first + 1] - self.columns["token_at"][self._first]

    @property
    def completion_lengths(self) -> Places:
        """Tokens of each completion, group after group."""
        spans = stretches(self._first + 1, self.sizes)
        return self.columns["token_at"][spans + 1] - self.columns["token_at"][spans]

    @property
    def longest(self) -> Places:
        """[n] tokens of the longest of each group's sequences."""
        if not len(self):
            return np.zeros(0, np.int64)
        return self.prompt_lengths + np.maximum.reduceat(self.completion_lengths, starts(self.sizes)[:-1])

    def count(self, token: int) -> Places:
        """[n] how often a token stands in each group that has pictures; 0 in the others."""
        found = np.zeros(len(self), np.int64)
        at, ids = self.columns["token_at"], self.columns["ids"]
        for number in np.flatnonzero(self.columns["pictures"][self.places]).tolist():
            first = self._first[number]
            found[number] = np.count_nonzero(ids[at[first] : at[first + self.sizes[number] + 1]] == token)
        return found

    @property
    def pictures(self) -> bool:
        """Whether any group has a picture."""
        return bool(self.columns["pictures"][self.places].any())

    @property
    def decided(self) -> Packed:
        """Without the groups that the objective has nothing to learn from."""
        return self.take(self.places[self.columns["decides"][self.places]])


@dc.dataclass(frozen=True)
class _Briefs(Sequence[Brief]):
    packed: Packed

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, index: Any) -> Any:
        row = int(self.packed.places[index])
        return self.packed._brief(row, self.packed._note(row))


# -- files --------------------------------------------------------------------------------------------------------


def opened(folder: Path, places: Places) -> Packed:
    """Groups of a folder that `Columns.close` has filled."""
    return Packed({name: _mapped(folder / name) for name in KEPT}, places, folder)


def _mapped(path: Path) -> NDArray[Any]:
    kind = np.int64 if path.name in STARTS else COLUMNS[path.name]
    if not path.stat().st_size:
        return np.zeros(0, kind)
    return np.memmap(path, kind, mode="r").view(np.ndarray)  # slices of a plain view cost less


class Columns:
    """Where packed rows go: the files of `folder`, or memory when there is none. OSError when a file cannot grow."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder, self.rows = folder, 0
        self._parts: list[Arrays] = []
        self._files = {name: (folder / name).open("wb") for name in COLUMNS} if folder else {}

    def add(self, arrays: Arrays) -> None:
        """The next rows."""
        self.rows += len(arrays["spans"])
        if not self._files:
            self._parts.append(arrays)
        for name, file in self._files.items():
            file.write(arrays[name].data)

    def close(self) -> Packed:
        """All rows that were encoded, in the order they came."""
        if self.folder is None:
            parts = self._parts or [Packer().arrays()]
            return Packed(finished({name: np.concatenate([part[name] for part in parts]) for name in COLUMNS}))
        for file in self._files.values():
            file.close()
        for name, lengths in STARTS.items():
            starts(np.fromfile(self.folder / lengths, COLUMNS[lengths])).tofile(self.folder / name)
            (self.folder / lengths).unlink()
        packed = opened(self.folder, np.zeros(0, np.int64))
        return packed.take(np.flatnonzero(np.diff(packed.columns["span_at"])))

    def abandon(self) -> None:
        """Close the files of rows that nobody wants any more."""
        for file in self._files.values():
            file.close()
