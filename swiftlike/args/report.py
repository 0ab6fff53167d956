"""One table and one picture of many results."""

from typing import Any

from swiftlike.core.declare import arg, section


@section
class ReportArgs:
    results: list[str] = arg(
        [],
        "name=path ...: a result of `swiftlike eval` (JSON), a folder that holds some, or a file of answers (sample, "
        "score, infer); paths of one name make one row; name:PREFIX=path puts PREFIX_ before its columns",
    )
    output_dir: str = arg("report_output", "folder that gets table.md, table.csv, table.json and plot.png")
    show: list[str] = arg([], "columns of the table, in order; none: all")
    y: list[str] = arg([], "columns to draw, a panel for each, with their 95 % intervals where they are known")
    x: str | None = arg(None, "column to draw them against; none: the number in the name (iter0: 0), or the order")
    series: bool = arg(False, "a line for each part of the names before the last `/`: exo/ckpt1, exo/ckpt2, dpo/ckpt1")
    title: str | None = arg(None, "heading of the picture")


def problems(run: Any) -> list[str]:
    """What only several values together show."""
    args = run.report
    found = [] if args.results else ["--results: which ones? (name=path ...)"]
    given = [("x", args.x), ("series", args.series), ("title", args.title)]
    return found + [f"--{flag}: what is drawn? give --y" for flag, value in given if value and not args.y]
