"""`--dataset` to packed groups: read, checked and encoded by as many processes as there are, never all in memory."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swiftlike.core.log import world_size
from swiftlike.data.check import Problem
from swiftlike.data.convert import Account, Converter
from swiftlike.data.encode import Encoded, Encoder
from swiftlike.data.load import gather
from swiftlike.data.packed import Columns, Packed
from swiftlike.data.packing import Packer
from swiftlike.data.pool import WORTH, cores, in_stretches
from swiftlike.data.report import Report
from swiftlike.data.seen import Arrays, Seen, stretches
from swiftlike.data.tables import Table
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import Row

Places = NDArray[np.int64]


@dc.dataclass(frozen=True)
class Prepared:
    """Groups to train and to validate on, what is said about them, and rows that could not be encoded. `files` are the
    names of pictures that were looked at."""

    train: Packed
    val: Packed
    report: str
    bad_train: Sequence[Problem] = ()
    bad_val: Sequence[Problem] = ()
    files: Sequence[str] = ()


@dc.dataclass(frozen=True, kw_only=True)
class Preparing:
    """How rows become groups. `processes` None: all cores where there is enough to do.

    `decides` says whether the objective learns something from a group.
    """

    encode: Encoder
    decides: Callable[[Encoded], bool] = lambda group: True
    processes: int | None = None


def prepare(data: Any, kind: str, seed: int, hub: str, how: Preparing, folder: Path | None = None) -> Prepared:
    """Groups of the rows that `load.load_rows` would read, in the same order, with the same report and errors. Their
    columns are files of `folder`, or in memory. Nothing depends on how many processes there are."""
    bounded = data.interleave_prob or data.train_dataset_sample >= 0 or data.val_dataset_sample >= 0
    reading = _Reading(how, Columns(folder), encodes=not bounded)
    try:
        rows, held, report = gather(data, kind, seed, hub, reading.read)
        train, val = np.array(rows, np.int64), np.array(held, np.int64)
        del rows, held
        if bounded:  # only now is known which rows are wanted
            reading.encode_only(train, val)
        packed = reading.columns.close()
    except BaseException:
        reading.columns.abandon()
        raise
    reading.seen.enter(report, packed.origin, train)
    return _prepared(packed, train, val, report, reading)


def _prepared(packed: Packed, train: Places, val: Places, report: Report, reading: _Reading) -> Prepared:
    there = np.diff(packed.columns["span_at"]) > 0
    problems = reading.problems
    return Prepared(
        train=packed.take(train[there[train]]),
        val=packed.take(val[there[val]]),
        report=report.as_text(),
        bad_train=[problems[row] for row in train[~there[train]].tolist()],
        bad_val=[problems[row] for row in val[~there[val]].tolist()],
        files=reading.files,
    )


@dc.dataclass(frozen=True)
class _Piece:
    """What a process says of a stretch of records: rows of each, and if they were asked for groups and problems by
    place of the row in the piece."""

    counts: Places
    seen: Arrays
    columns: dict[str, NDArray[Any]]
    problems: dict[int, Problem]
    account: Account


@dc.dataclass(frozen=True)
class _Drawn:
    """Records of one data set that are used: places of its table, each once, and the rows of each."""

    converter: Converter
    table: Table
    places: Places
    counts: Places


class _Reading:
    """Rows get numbers in the order they are first met; what stands for a row in lists is its number."""

    def __init__(self, how: Preparing, columns: Columns, encodes: bool) -> None:
        self.how, self.columns, self.encodes = how, columns, encodes
        self.seen = Seen()
        self.problems: dict[int, Problem] = {}
        self.files: list[str] = []
        self._drawn: list[_Drawn] = []
        self._rows = 0

    def read(
        self, converter: Converter, table: Table, train: Sequence[int], val: Sequence[int]
    ) -> tuple[list[int], list[int]]:
        """Numbers of the rows at places of a table; a record that is drawn twice is read once."""
        drawn = np.array([*train, *val], np.int64)
        places, firsts, which = np.unique(drawn, return_index=True, return_inverse=True)
        order = np.argsort(firsts)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        places, which = places[order], rank[which]
        encode = self.how.encode if self.encodes else None
        counts = []
        for piece in self._pieces(lambda a, b: _piece(converter, table, places[a:b], encode, self.how), len(places)):
            converter.absorb(piece.account)
            counts.append(piece.counts)
            self.seen.absorb(piece.seen)
            if self.encodes:
                self._keep(piece)
        rows = np.concatenate(counts) if counts else np.zeros(0, np.int64)
        first = self._rows + np.cumsum(rows) - rows
        self._rows += int(rows.sum())
        self._drawn.append(_Drawn(converter, table, places, rows))
        self.files = list(dict.fromkeys([*self.files, *converter.pictures.files]))
        numbers = [stretches(first[part], rows[part]).tolist() for part in (which[: len(train)], which[len(train) :])]
        return numbers[0], numbers[1]

    def encode_only(self, *wanted: Places) -> None:
        """Read the records of these rows again and encode them; the other rows are skipped."""
        chosen = np.zeros(self._rows, np.bool_)
        for rows in wanted:
            chosen[rows] = True
        before = 0
        for drawn in self._drawn:
            ends = before + np.cumsum(drawn.counts)
            marks = [chosen[end - count : end].any() for end, count in zip(ends, drawn.counts, strict=True)]
            again = _again(drawn, np.array(marks, np.bool_), self.how)
            for piece in self._pieces(again, len(drawn.places)):
                self._keep(piece)
            before += int(drawn.counts.sum())

    def _pieces(self, work: Callable[[int, int], _Piece], length: int) -> Any:
        ranks = 1 if self.columns.folder else world_size()  # without files every rank prepares by itself
        own = max(1, cores() // ranks) if length >= WORTH else 1
        return in_stretches(work, length, self.how.processes or own)

    def _keep(self, piece: _Piece) -> None:
        first = self.columns.rows
        self.problems |= {first + row: problem for row, problem in piece.problems.items()}
        self.columns.add(piece.columns)


def _piece(converter: Converter, table: Table, places: Places, encode: Encoder | None, how: Preparing) -> _Piece:
    own, seen, packing = converter.apart(), Seen(), Packing(encode, how.decides)
    counts = []
    for place in places.tolist():
        rows = own.rows(*table[place])
        counts.append(len(rows))
        for row in rows:
            seen.add(row)
            packing.add(row)
    return _Piece(np.array(counts, np.int64), seen.arrays(), packing.packer.arrays(), packing.problems, own.account)


def _again(drawn: _Drawn, chosen: NDArray[np.bool_], how: Preparing) -> Callable[[int, int], _Piece]:
    def work(start: int, stop: int) -> _Piece:
        own, packing = drawn.converter.apart(), Packing(how.encode, how.decides)
        stretch = slice(start, stop)
        for place, count, wanted in zip(drawn.places[stretch], drawn.counts[stretch], chosen[stretch], strict=True):
            for row in own.rows(*drawn.table[int(place)]) if wanted else ():
                packing.add(row)
            for _ in range(0 if wanted else int(count)):
                packing.skip()
        return _Piece(np.zeros(0, np.int64), Seen().arrays(), packing.packer.arrays(), packing.problems, own.account)

    return work


class Packing:
    """Rows to packed groups, with what is wrong with those that cannot be encoded, by place. Without `encode`, rows are
    only counted."""

    def __init__(self, encode: Encoder | None, decides: Callable[[Encoded], bool] = lambda group: True) -> None:
        self.encode, self.decides, self.packer = encode, decides, Packer()
        self.problems: dict[int, Problem] = {}
        self._rows = 0

    def add(self, row: Row) -> None:
        """The next row."""
        if self.encode is not None:
            try:
                group = self.encode(row)
                self.packer.add(group, self.decides(group))
            except BadRow as error:
                self.problems[self._rows] = Problem(row.origin, error.kind, error.detail)
                self.packer.skip(row.origin)
        self._rows += 1

    def skip(self) -> None:
        """The next row, which is not wanted."""
        self.packer.skip()
        self._rows += 1


def encode_rows(encode: Encoder, rows: Sequence[Row], processes: int = 1) -> tuple[Packed, list[Problem]]:
    """Groups of the rows that can be used, and what is wrong with the others. Order does not depend on `processes`."""

    def work(start: int, stop: int) -> tuple[dict[str, NDArray[Any]], list[Problem]]:
        packing = Packing(encode)
        for row in rows[start:stop]:
            packing.add(row)
        return packing.packer.arrays(), list(packing.problems.values())

    columns, problems = Columns(), []
    for arrays, wrong in in_stretches(work, len(rows), processes):
        columns.add(arrays)
        problems += wrong
    return columns.close(), problems
