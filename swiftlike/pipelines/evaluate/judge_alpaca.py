"""AlpacaEval: the model's answers against those of a baseline, each pair shown to the judge in both orders."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.core.files import write_json
from swiftlike.core.merge import Run
from swiftlike.datasets_registry.row import Message, Row, Turns
from swiftlike.pipelines.evaluate.answers import mean_length, read_rows
from swiftlike.pipelines.evaluate.asking import write_report
from swiftlike.pipelines.evaluate.games import Played, play
from swiftlike.pipelines.evaluate.results import Values, folder_of
from swiftlike.pipelines.evaluate.win_rate import counted
from swiftlike.pipelines.judges import SCORERS, Group

Record = Mapping[str, Any]
REPORT = "alpaca_eval.txt"


def judge(run: Run, questions: Sequence[Record], rows: Sequence[Record], model_id: str) -> Values:
    """Write annotations, and the report in AlpacaEval's columns: win %, standard error, answers, mean length.

    Length-controlled win rates (AlpacaEval 2) are left to the package alpaca_eval, which reads the same files.
    """
    theirs = {row.get("instruction"): row for row in read_rows(run.eval.baseline)}
    both = [(theirs[row["instruction"]], row) for row in rows if row["instruction"] in theirs]
    if not both:
        raise UserError(f"--baseline {run.eval.baseline} answers none of the instructions")
    card = SCORERS.get("compare")
    scorer = card.open(run)
    try:
        played = play(scorer, card, [_pair(*one) for one in both], tie=0.0)
    finally:
        scorer.close()
    annotations = [_annotation(*one, game) for one, game in zip(both, played, strict=True)]
    folder = folder_of(run)
    write_json(folder / "alpaca_eval" / "annotations" / f"{model_id}.json", annotations)
    values: Values = {"baseline": str(both[0][0].get("generator", run.eval.baseline)), "judge": run.judge.judge_model}
    values |= {**counted(played, None, run.generate.seed), "mean_length": mean_length(row["output"] for row in rows)}
    return values | {"report": str(_report(folder))}


def _pair(theirs: Record, mine: Record) -> Group:
    prompt = Turns((Message("user", mine["instruction"]),))
    answers = tuple(Turns((Message("assistant", one["output"]),)) for one in (mine, theirs))
    return Group(Row(prompt=prompt, completions=answers), mine)


def _annotation(theirs: Record, mine: Record, played: Played) -> dict[str, Any]:
    """AlpacaEval's row: `preference` from 1 (the baseline is better) to 2, none without a verdict."""
    return {
        "instruction": mine["instruction"],
        "output_1": theirs["output"],
        "generator_1": theirs.get("generator"),
        "output_2": mine["output"],
        "generator_2": mine.get("generator"),
        "preference": None if played.error else 1 + played.value,
        "error": played.error or None,
    }


def _report(folder: Path) -> Path:
    """The lines of all models that have annotations."""
    lines = ["win_rate standard_error n_total avg_length"]
    for path in sorted((folder / "alpaca_eval" / "annotations").glob("*.json")):
        rows = read_rows(path)
        shares = [100 * (row["preference"] - 1) for row in rows if row["preference"] is not None]
        if shares:
            error = statistics.stdev(shares) / len(shares) ** 0.5 if len(shares) > 1 else 0.0
            length = int(mean_length(row["output_2"] for row in rows))
            lines.append(f"{path.stem} {statistics.fmean(shares):.2f} {error:.2f} {len(shares)} {length}")
    return write_report(folder, REPORT, "\n".join([*lines, ""]))
