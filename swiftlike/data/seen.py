"""What a report says about all rows together, from some 60 bytes of each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swiftlike.data.check import fingerprint
from swiftlike.data.report import Histogram, Report
from swiftlike.datasets_registry.row import Row

Arrays = tuple[NDArray[Any], ...]
_PRINT = 16


class Seen:
    """Lengths in characters and fingerprints of rows, in their order."""

    def __init__(self) -> None:
        self._prompts: list[int] = []
        self._answers: list[int] = []
        self._counts: list[int] = []
        self._prints: list[bytes] = []
        self._origins: list[bytes] = []
        self._parts: list[Arrays] = []

    def add(self, row: Row) -> None:
        """The next row."""
        prompts = [sum(len(m.content) for m in row.prompt_of(k).messages) for k in range(max(row.size, 1))]
        self._prompts.append(max(prompts))
        self._answers += [sum(len(message.content) for message in turns.messages) for turns in row.completions]
        self._counts.append(row.size)
        self._prints.append(fingerprint(row))
        origin = row.origin.encode("utf-8", "surrogatepass")
        self._origins.append(hashlib.blake2b(origin, digest_size=_PRINT).digest())

    def arrays(self) -> Arrays:
        """(prompt characters, characters of each answer, answers of each row, fingerprints and places [n, 2])."""
        prints, origins = (
            np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2) for digests in (self._prints, self._origins)
        )
        numbers = (np.array(one, np.int64) for one in (self._prompts, self._answers, self._counts))
        return (*numbers, prints, origins)

    def absorb(self, later: Arrays) -> None:
        """Add rows that come after these, seen elsewhere."""
        self._parts.append(later)

    def enter(self, report: Report, origin: Callable[[int], str], rows: NDArray[np.int64] | None = None) -> None:
        """Write into `report` the lengths of these rows (all of them, in order, when none are given) and how many
        repeat the content of a row from another place: repeats made by `#N` do not count. `origin` tells the place of
        a row in words."""
        parts = [*self._parts, self.arrays()]
        prompts, answers, counts, prints, origins = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        rows = np.arange(len(prompts)) if rows is None else rows
        if len(rows):
            report.lengths["prompt characters"] = Histogram(prompts[rows])
        if counts[rows].any():
            first = np.cumsum(counts) - counts
            report.lengths["answer characters"] = Histogram(answers[stretches(first[rows], counts[rows])])
        before = rows[_first_of_each(prints[rows])]
        again = np.flatnonzero((origins[rows] != origins[before]).any(1))
        if len(again):
            at = again[0]
            report.duplicates += len(again)
            report.first_duplicate = f"{origin(int(rows[at]))} repeats {origin(int(before[at]))}"


def stretches(first: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """`first[i], first[i] + 1, ...`, counts[i] of them, one stretch after another."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(first - (ends - counts), counts)


def _first_of_each(prints: NDArray[np.uint64]) -> NDArray[np.int64]:
    """[n, 2] to [n]: where the same pair of numbers is found first."""
    order = np.lexsort((prints[:, 1], prints[:, 0]))  # stable: equal ones stay in their order
    placed = prints[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (placed[1:] != placed[:-1]).any(1)
    first = np.empty(len(order), np.int64)
    first[order] = order[new][np.cumsum(new) - 1]
    return first
