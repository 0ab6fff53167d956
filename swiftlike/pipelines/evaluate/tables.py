"""The table of all benchmarks over the rounds of an iterative training."""

from __future__ import annotations

from pathlib import Path

from swiftlike.core.errors import UserError
from swiftlike.core.files import atomic
from swiftlike.core.log import get_logger
from swiftlike.core.merge import Run
from swiftlike.pipelines.evaluate.results import folder_of, publish
from swiftlike.stages.evaluation.summary import REPORTS, different_lengths, markdown, summarise_folder

log = get_logger(__name__)


def run(run: Run) -> int:
    """Read the reports of the log folder; write summary.json and summary.md and print the latter."""
    folder = Path(run.eval.log_folder or run.eval.output_dir).expanduser()
    table = summarise_folder(folder)
    if not table.rows:
        files = ", ".join(report.file for report in REPORTS)
        raise UserError(
            f"{folder}/evaluation has no score of a model that is called after its round, as in run_iter1",
            hint=f"reports are {files}",
        )
    for name in different_lengths(table):
        log.warning("%s: the two AlpacaEval reports judged different answers", name)
    text = markdown(table, verbose=run.eval.all_columns)
    with atomic(folder_of(run) / "summary.md") as file:
        file.write(text)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    publish(run, {"log_folder": str(folder), "rows": rows}, text.splitlines())
    return 0
