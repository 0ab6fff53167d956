"""The state of every stage as a table."""

from __future__ import annotations

import io

from swiftlike.pipelines.iterate import plan, state
from swiftlike.pipelines.iterate.progress import clock
from swiftlike.pipelines.iterate.recipe import Recipe


def table(recipe: Recipe) -> str:
    """Stage, state, rows, time and place; one line each."""
    from rich.console import Console
    from rich.table import Table

    found = Table(title=f"{recipe.path}: {recipe.root}", title_justify="left", box=None, pad_edge=False)
    for name in ("stage", "state", "rows", "time", "where"):
        found.add_column(name, justify="right" if name in ("rows", "time") else "left", overflow="fold")
    for one in plan.look_ahead(recipe, plan.Choice()):
        mark = state.read_mark(recipe.root, one.step)
        rows = "" if mark is None or mark.rows is None else str(mark.rows)
        seconds = "" if mark is None or mark.state != state.DONE else clock(mark.seconds)
        found.add_row(one.step.name, _state(one, mark), rows, seconds, "" if mark is None else mark.where)
    out = io.StringIO()
    Console(file=out, width=160).print(found)
    return out.getvalue()


def _state(planned: plan.Planned, mark: state.Mark | None) -> str:
    if mark is None:
        return "to do"
    if planned.action == plan.SKIP:
        return "done"
    if planned.action == plan.RESUME:
        return "running or stopped" if mark.state == state.RUNNING else "failed"
    return f"to be run again: {planned.why}"
