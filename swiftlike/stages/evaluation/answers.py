"""Answer files of MT-Bench and Arena-Hard: one line per question."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from swiftlike.core.files import read_jsonl, write_jsonl


def model_name(model_id: str) -> str:
    """A model's name in rows and file names."""
    return model_id.replace("/", "_")


def answer_row(
    question: Mapping[str, Any], model_id: str, choices: Sequence[Sequence[Any]], *, now: float | None = None
) -> dict[str, Any]:
    """A line for a question; `choices` hold the turns of each attempt, as texts or as Arena-Hard's `turn`."""
    return {
        "question_id": question["question_id"],
        "answer_id": uuid.uuid4().hex,
        "model_id": model_name(model_id),
        "choices": [{"index": i, "turns": list(turns)} for i, turns in enumerate(choices)],
        "tstamp": time.time() if now is None else now,
    }


def in_order(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Sorted by question; of several answers to one, the last."""
    last = {row["question_id"]: row for row in rows}
    return [last[question] for question in sorted(last)]


def reorder_file(path: str | Path) -> int:
    """Put an answer file that was added to in order. Gives the number of questions."""
    return write_jsonl(path, in_order([row for _, row in read_jsonl(path)]))
