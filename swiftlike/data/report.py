"""What loading did, in numbers a user can check: asked, got, repeated, dropped and why."""

from __future__ import annotations

import bisect
import dataclasses as dc
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from swiftlike.data.check import Problem
from swiftlike.datasets_registry.columns import Mapping

_BAR = 40
_MAX_LINES = 5  # mappings of one data set that are written out


class Histogram:
    """Numbers kept for their distribution: quantiles and a bar chart."""

    def __init__(self, values: Iterable[int] = ()) -> None:
        self.values = np.sort(values if isinstance(values, np.ndarray) else np.array(list(values), np.int64))

    def quantile(self, share: float) -> int:
        """The smallest value that at least this share of the numbers do not exceed; 0 when there are none."""
        return int(self.values[max(0, math.ceil(share * len(self.values)) - 1)]) if len(self.values) else 0

    def above(self, limit: int) -> int:
        """How many numbers are greater than `limit`."""
        return len(self.values) - int(np.searchsorted(self.values, limit, side="right"))

    def as_text(self) -> str:
        """`p50 120  p95 800  max 1024  (300 values)`."""
        marks = (("p50", 0.5), ("p95", 0.95), ("max", 1.0))
        return "  ".join(f"{name} {self.quantile(share)}" for name, share in marks) + f"  ({len(self.values)} values)"

    def as_json(self) -> dict[str, int]:
        """The same as a mapping."""
        return {name: self.quantile(share) for name, share in (("p50", 0.5), ("p95", 0.95), ("max", 1.0))} | {
            "count": len(self.values)
        }

    def bars(self, count: int = 8) -> list[str]:
        """A chart of at most `count` lines: upper end of the bin, bar, number of values. Bins double in width."""
        if not len(self.values):
            return []
        top = max(int(self.values[-1]), 1)
        edges = sorted({math.ceil(top / 2**k) for k in range(count)})
        edges = edges[bisect.bisect_left(edges, self.values[0]) :]  # no empty bins before the first value
        counts = [self.above(low) - self.above(high) for low, high in zip([-1, *edges], edges, strict=False)]
        most, width = max(counts), len(str(edges[-1]))
        return [
            f"<= {edge:>{width}} {'#' * math.ceil(_BAR * number / most):<{_BAR}} {number}"
            for edge, number in zip(edges, counts, strict=True)
        ]


@dc.dataclass
class Reasons:
    """Rows by reason, each with its first example."""

    counts: Counter[str] = dc.field(default_factory=Counter)
    examples: dict[str, str] = dc.field(default_factory=dict)

    def add(self, reason: str, example: str) -> None:
        """Count one row."""
        self.counts[reason] += 1
        self.examples.setdefault(reason, example)

    def absorb(self, later: Reasons) -> None:
        """Add what was counted on rows that come after these."""
        self.counts.update(later.counts)
        self.examples = later.examples | self.examples

    def as_text(self) -> str:
        """`3 image is missing (first: a.jsonl:7: ...); 1 not JSON (...)`."""
        return "; ".join(f"{n} {reason} (first: {self.examples[reason]})" for reason, n in self.counts.most_common())

    def as_json(self) -> dict[str, dict[str, Any]]:
        """Reason to count and first example."""
        return {reason: {"count": n, "first": self.examples[reason]} for reason, n in self.counts.most_common()}


@dc.dataclass
class DatasetReport:
    """One data set. `found` counts records, `train` and `val` rows, `repeated` the rows that are copies by `#N`."""

    name: str
    asked: int | None = None  # N of #N
    found: int = 0
    train: int = 0
    val: int = 0
    repeated: int = 0
    left_out: Reasons = dc.field(default_factory=Reasons)  # by design: ties, other languages
    bad: Reasons = dc.field(default_factory=Reasons)
    problems: list[Problem] = dc.field(default_factory=list)
    mappings: Counter[Mapping] = dc.field(default_factory=Counter)
    notes: list[str] = dc.field(default_factory=list)

    def absorb(self, later: DatasetReport) -> None:
        """Add what a converter has said of records that come after these."""
        self.left_out.absorb(later.left_out)
        self.bad.absorb(later.bad)
        self.problems.extend(later.problems)
        self.mappings.update(later.mappings)

    def as_lines(self) -> list[str]:
        """The lines of the report on this data set."""
        asked = f"asked {self.asked}, " if self.asked is not None else ""
        got = f"{self.train} to train on and {self.val} to validate on" if self.val else f"{self.train} rows"
        counts = f"{asked}found {self.found}, got {got}"
        repeated = f", {self.repeated} of them repeats" if self.repeated else ""
        lines = [f"{self.name}: {counts}{repeated}"]
        for mapping, count in self.mappings.most_common(_MAX_LINES):
            share = f" ({count} rows)" if len(self.mappings) > 1 else ""
            lines.append(f"  recognised as {mapping.as_text()}{share}")
        if self.left_out.counts:
            lines.append(f"  left out {self.left_out.counts.total()}: {self.left_out.as_text()}")
        if self.bad.counts:
            lines.append(f"  bad {self.bad.counts.total()}: {self.bad.as_text()}")
        return [*lines, *(f"  {note}" for note in self.notes)]

    def as_json(self) -> dict[str, Any]:
        """The same as a mapping."""
        numbers = {key: getattr(self, key) for key in ("name", "asked", "found", "train", "val", "repeated", "notes")}
        mappings = [
            {"format": mapping.name, "columns": mapping.columns, "unused": list(mapping.unused), "rows": count}
            for mapping, count in self.mappings.most_common()
        ]
        return numbers | {"mappings": mappings, "left_out": self.left_out.as_json(), "bad": self.bad.as_json()}


@dc.dataclass
class Report:
    """All data sets of a run. `lengths` takes any histogram by name; token lengths are added when a model is known."""

    datasets: list[DatasetReport] = dc.field(default_factory=list)
    lengths: dict[str, Histogram] = dc.field(default_factory=dict)
    duplicates: int = 0
    first_duplicate: str = ""
    pictures: Counter[tuple[int, int]] = dc.field(default_factory=Counter)  # size -> different pictures

    @property
    def problems(self) -> list[Problem]:
        """Every bad row of every data set."""
        return [problem for one in self.datasets for problem in one.problems]

    @property
    def dropped(self) -> int:
        """How many records gave no row because they are bad."""
        return sum(one.bad.counts.total() for one in self.datasets)

    def as_text(self, charts: bool = False) -> str:
        """The report for people; `charts` adds a bar chart to each line of lengths."""
        lines = [line for one in self.datasets for line in one.as_lines()]
        if self.duplicates:
            lines.append(f"duplicates: {self.duplicates} rows repeat an earlier one (first: {self.first_duplicate})")
        if self.pictures:
            widths, heights = zip(*self.pictures, strict=True)
            lines.append(
                f"pictures: {self.pictures.total()} different, from {min(widths)} x {min(heights)} "
                f"to {max(widths)} x {max(heights)}"
            )
        for name, histogram in self.lengths.items():
            lines.append(f"{name}: {histogram.as_text()}")
            lines.extend(f"  {bar}" for bar in (histogram.bars() if charts else ()))
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """The report for programs."""
        return {
            "datasets": [one.as_json() for one in self.datasets],
            "duplicates": self.duplicates,
            "pictures": [{"width": w, "height": h, "count": n} for (w, h), n in self.pictures.most_common()],
            "lengths": {name: histogram.as_json() for name, histogram in self.lengths.items()},
            "problems": [{"at": p.origin, "kind": p.kind, "detail": p.detail} for p in self.problems],
        }
