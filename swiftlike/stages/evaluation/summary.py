"""The table of all scores over iterations, from the reports that the evaluation tools print."""

from __future__ import annotations

import dataclasses as dc
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from swiftlike.stages.evaluation.mt_bench import AVERAGE

Row = dict[str, Any]
_ITERATION = re.compile(r"iter(\d+)")
_LENGTHS = ("AlpacaEval 1.0 (avg_len)", "AlpacaEval 2.0 (avg_len)")
_LENGTH = "AlpacaEval (avg_len)"
_SHORT = (
    "Iteration",
    "MT-Bench (GPT-4-Turbo)",
    "MT-Bench (GPT-4)",
    "AlpacaEval (win %)",
    "AlpacaEval 2.0 LC (win %)",
    "AlpacaEval 2.0 (win %)",
    _LENGTH,
    "Arena-Hard (win %)",
    "Arena-Hard (avg_token)",
)


@dc.dataclass(frozen=True)
class _Report:
    """A report's file, the columns it fills, and the reader of (model, numbers) in it."""

    file: str
    columns: tuple[str, ...]
    read: Callable[[str], Iterator[tuple[str, Sequence[str]]]]


@dc.dataclass(frozen=True)
class Table:
    """Rows by iteration; None where a report is missing or does not have the iteration."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def summarise(texts: Mapping[str, str]) -> Table:
    """The table from the reports' texts by file name; files that are not there leave their columns empty.

    A line belongs to the iteration that the last `iterN` of its model's name says; of several the last counts, and
    lines of other models are left out.
    """
    found: dict[int, Row] = {}
    for report in REPORTS:
        for model, words in report.read(texts.get(report.file, "")):
            numbers, iteration = _numbers(words), _ITERATION.findall(model)
            if iteration and numbers is not None and len(numbers) == len(report.columns):
                values = dict(zip(report.columns, numbers, strict=True))
                found.setdefault(int(iteration[-1]), {}).update(values)
    columns = ("Iteration", *(column for report in REPORTS for column in report.columns))
    rows = ({"Iteration": f"iter{iteration}", **found[iteration]} for iteration in sorted(found))
    return Table(columns, tuple(tuple(row.get(column) for column in columns) for row in rows))


def summarise_folder(folder: str | Path) -> Table:
    """The table of a log folder, which has the reports in `evaluation/`."""
    paths = (Path(folder) / "evaluation" / report.file for report in REPORTS)
    return summarise({path.name: path.read_text(encoding="utf-8") for path in paths if path.is_file()})


def markdown(table: Table, *, verbose: bool = False) -> str:
    """The table for reading: the main columns, or all with `verbose`; the two AlpacaEval lengths are one column."""
    columns = tuple(dict.fromkeys(_LENGTH if one in _LENGTHS else one for one in table.columns))
    shown = columns if verbose else _SHORT
    lines = [" | ".join(shown), " | ".join("---" for _ in shown)]
    for values in table.rows:
        row = dict(zip(table.columns, values, strict=True))
        row[_LENGTH] = next((row[name] for name in _LENGTHS if row[name] is not None), None)
        lines.append(" | ".join(_cell(row[column]) for column in shown))
    return "".join(f"| {line} |\n" for line in lines)


def different_lengths(table: Table) -> list[str]:
    """Iterations whose two AlpacaEval reports give different mean answer lengths: they judged different answers."""
    first, second = (table.columns.index(name) for name in _LENGTHS)
    return [row[0] for row in table.rows if None not in (row[first], row[second]) and row[first] != row[second]]


def _alpaca(text: str) -> Iterator[tuple[str, Sequence[str]]]:
    for line in text.splitlines():
        if words := line.split():
            yield words[0], words[1:]


def _mt_bench(text: str) -> Iterator[tuple[str, Sequence[str]]]:
    """Of a file that was added to, the last averages."""
    _, mark, rest = text.rpartition(AVERAGE)
    return _alpaca(rest.split("\n##########")[0] if mark else "")


def _arena_hard(text: str) -> Iterator[tuple[str, Sequence[str]]]:
    for line in text.splitlines():
        model, *parts = line.split("|")
        if len(parts) == 3 and all(":" in part for part in parts):
            yield model, re.sub(r"[(),]", " ", " ".join(part.partition(":")[2] for part in parts)).split()


def _numbers(words: Sequence[str]) -> list[float] | None:
    try:
        return [float(word) for word in words]
    except ValueError:
        return None


def _cell(value: Any) -> str:
    return "" if value is None else f"{round(value, 2):g}" if isinstance(value, float) else str(value)


REPORTS = (
    _Report("mt_bench.txt", ("MT-Bench (GPT-4)",), _mt_bench),
    _Report("mt_bench_gpt_4_turbo.txt", ("MT-Bench (GPT-4-Turbo)",), _mt_bench),
    _Report(
        "alpaca_eval.txt",
        ("AlpacaEval (win %)", "AlpacaEval (std)", "AlpacaEval (n_total)", _LENGTHS[0]),
        _alpaca,
    ),
    _Report(
        "alpaca_eval_2.txt",
        (
            "AlpacaEval 2.0 LC (win %)",
            "AlpacaEval 2.0 (win %)",
            "AlpacaEval 2.0 (std)",
            "AlpacaEval 2.0 (n_total)",
            _LENGTHS[1],
        ),
        _alpaca,
    ),
    _Report(
        "arena_hard.txt",
        ("Arena-Hard (win %)", "Arena-Hard (CI lower)", "Arena-Hard (CI upper)", "Arena-Hard (avg_token)"),
        _arena_hard,
    ),
)
