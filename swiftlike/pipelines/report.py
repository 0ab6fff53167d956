"""`swiftlike report`: results of many evaluations as one table and one picture."""

from __future__ import annotations

import csv
import dataclasses as dc
import io
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from swiftlike.core.errors import UserError, suggestion
from swiftlike.core.files import atomic, write_json
from swiftlike.core.log import get_logger
from swiftlike.core.merge import Run
from swiftlike.pipelines.report_plot import draw
from swiftlike.pipelines.report_results import Result, read_results

log = get_logger(__name__)
PARTS = ("_stderr", "_lower", "_upper")  # of a column that has an interval


@dc.dataclass(frozen=True)
class Table:
    """Rows by name, in the order they were given. `full` leads from PREFIX_column to what a column is called here."""

    rows: dict[str, dict[str, float]]
    full: dict[str, str]

    @property
    def columns(self) -> list[str]:
        """Every column, in the order they were met."""
        return list(dict.fromkeys(column for row in self.rows.values() for column in row))

    def find(self, column: str) -> str:
        """A column by its name, or by its name with the prefix. UserError when no row has it."""
        columns = self.columns
        found = column if column in columns else self.full.get(column)
        if found is not None:
            return found
        several = [shown for full, shown in self.full.items() if full.endswith(f"_{column}")]
        hint = f"say which: {' or '.join(several)}" if several else f"there are {', '.join(columns)}"
        raise UserError(f"no result has the column {column!r}{suggestion(column, columns)}", hint=hint)


def run(run: Run) -> int:
    """Write the table in three formats, print it, and draw what `--y` names."""
    args = run.report
    table = tabulate(read_results(args.results))
    shown = [table.find(one) for one in args.show] or table.columns
    y, x = [table.find(one) for one in args.y], table.find(args.x) if args.x else None
    _complete(table, [*y, *([x] if x else [])])
    folder = Path(args.output_dir).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir {folder}: {error.strerror}") from error
    text = markdown(table, shown)
    for name, content in (("table.md", text), ("table.csv", as_csv(table, shown))):
        with atomic(folder / name) as file:
            file.write(content)
    rows = [{"name": name} | {one: row[one] for one in shown if one in row} for name, row in table.rows.items()]
    write_json(folder / "table.json", rows)
    if y:
        draw(folder / "plot.png", table.rows, y=y, x=x, series=args.series, title=args.title)
    sys.stdout.write(text)
    sys.stdout.flush()
    log.info("report: %s", folder)
    return 0


def tabulate(results: Sequence[Result]) -> Table:
    """A row for each name. Where two results of one name have the same column, it gets the prefix of its result in all
    rows; UserError when the prefixes are the same too."""
    met = Counter((one.name, column) for one in results if not one.named for column in one.values)
    twice = {column for (_, column), count in met.items() if count > 1}
    rows: dict[str, dict[str, float]] = {}
    came: dict[tuple[str, str], Result] = {}
    full: dict[str, str] = {}
    for one in results:
        row = rows.setdefault(one.name, {})
        for column, value in one.values.items():
            whole = f"{one.prefix}_{column}"
            shown = whole if one.named or _base(column) in twice or column in twice else column
            if (one.name, shown) in came:
                raise UserError(
                    f"{one.name}: both {came[one.name, shown].path} and {one.path} have {shown}",
                    hint=f"tell them apart: {one.name}:PREFIX={one.path}",
                )
            came[one.name, shown], row[shown], full[whole] = one, value, shown
    return Table(rows, full)


def _base(column: str) -> str:
    """`win_rate` of `win_rate_lower`: a column and its interval are called alike."""
    return next((column.removesuffix(part) for part in PARTS if column.endswith(part)), column)


def _complete(table: Table, columns: Sequence[str]) -> None:
    """UserError when a result lacks what is to be drawn."""
    lacking = [f"{name} has no {column}" for name, row in table.rows.items() for column in columns if column not in row]
    if lacking:
        raise UserError("not every result can be drawn:", problems=lacking)


def markdown(table: Table, columns: Sequence[str]) -> str:
    """The table for people: six digits."""
    head = ["name", *columns]
    rows = [[name, *(_digits(row, one) for one in columns)] for name, row in table.rows.items()]
    lines = [head, ["---", *("---:" for _ in columns)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _digits(row: Mapping[str, float], column: str) -> str:
    return f"{row[column]:.6g}" if column in row else ""


def as_csv(table: Table, columns: Sequence[str]) -> str:
    """The table for programs: all digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", *columns])
    writer.writerows([name, *(row.get(one, "") for one in columns)] for name, row in table.rows.items())
    return text.getvalue()
