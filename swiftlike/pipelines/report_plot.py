"""The picture of a report: columns over rounds, or one column against another."""

from __future__ import annotations

import dataclasses as dc
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Rows = Mapping[str, Mapping[str, float]]
_NORMAL = 1.96  # standard errors on either side of a mean that make 95 %
_PNG = {"Software": None}  # nothing in the file that depends on the day or on versions


@dc.dataclass(frozen=True)
class Point:
    """One result: where it stands, and what it is called within its line."""

    x: float
    label: str
    row: Mapping[str, float]


def draw(
    path: Path, rows: Rows, *, y: Sequence[str], x: str | None = None, series: bool = False, title: str | None = None
) -> None:
    """A panel for each column of `y`, over the column `x` or else over rounds. The file appears when it is whole."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines, axis, ticks = place(rows, x, series)
    figure = Figure(figsize=(6.4, 0.7 + 3.1 * len(y)))
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(y), 1, sharex=True, squeeze=False)[:, 0]
    for axes, column in zip(panels, y, strict=True):
        for name, points in lines.items():
            _line(axes, name, points, column, labelled=x is not None)
        axes.set_ylabel(column)
        axes.margins(0.12)
        axes.grid(alpha=0.3)
    panels[-1].set_xlabel(axis)
    if ticks:
        panels[-1].set_xticks(list(ticks.values()), list(ticks))
    if len(lines) > 1:
        panels[0].legend(fontsize="small")
    if title:
        figure.suptitle(title)
    figure.tight_layout()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    figure.savefig(temporary, format="png", dpi=100, metadata=_PNG)
    temporary.replace(path)


def _line(axes: Any, name: str, points: Sequence[Point], column: str, *, labelled: bool) -> None:
    """One line in the order of its points, with intervals where all have one."""
    xs, ys = [one.x for one in points], [one.row[column] for one in points]
    found = [interval(one.row, column) for one in points]
    spans = [span for span in found if span is not None]
    bars = list(zip(*spans, strict=True)) if len(spans) == len(points) else None
    axes.errorbar(xs, ys, yerr=bars, marker="o", capsize=3, label=name or None)
    for one, value in zip(points, ys, strict=True) if labelled else ():
        axes.annotate(one.label, (one.x, value), xytext=(5, 5), textcoords="offset points", fontsize="small")


def interval(row: Mapping[str, float], column: str) -> tuple[float, float] | None:
    """How far the 95 % interval reaches below and above the value; None when the row does not say."""
    value = row[column]
    if {f"{column}_lower", f"{column}_upper"} <= row.keys():
        return max(value - row[f"{column}_lower"], 0.0), max(row[f"{column}_upper"] - value, 0.0)
    if f"{column}_stderr" in row:
        return (_NORMAL * row[f"{column}_stderr"],) * 2
    return None


def place(rows: Rows, x: str | None, series: bool) -> tuple[dict[str, list[Point]], str, dict[str, float]]:
    """(line -> points, what the axis says, label -> where it is written). Without `x` it is the number in each name,
    or the place among all labels where names have none or the same ones."""
    parts = [name.rpartition("/") if series else ("", "", name) for name in rows]
    labels = list(dict.fromkeys(label for *_, label in parts))
    numbers = {label: match for label in labels if (match := re.fullmatch(r"(.*?)(\d+)\D*", label))}
    counted = len({int(match[2]) for match in numbers.values()}) == len(labels)
    where = {label: float(int(numbers[label][2]) if counted else k) for k, label in enumerate(labels)}
    lines: dict[str, list[Point]] = {}
    for (line, _, label), row in zip(parts, rows.values(), strict=True):
        lines.setdefault(line, []).append(Point(row[x] if x else where[label], label, row))
    if x:
        return lines, x, {}
    stems = {match[1].rstrip("_- ") for match in numbers.values()}
    axis = stems.pop() if counted and len(stems) == 1 else ""
    return lines, axis, {str(int(at)): at for at in where.values()} if axis else where
