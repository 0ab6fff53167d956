"""AlpacaEval: one answer to each instruction, in the file that its annotators read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from swiftlike.core.files import write_json
from swiftlike.stages.conversation import Chat, user_turn

SAMPLING: Mapping[str, float] = {"temperature": 0.7, "top_p": 1.0, "top_k": 50, "max_new_tokens": 2048}


def messages(example: Mapping[str, Any]) -> Chat:
    """What is asked."""
    return [user_turn(example["instruction"])]


def answer_row(example: Mapping[str, Any], output: str, generator: str) -> dict[str, Any]:
    """The example with the answer and the name of who gave it, in place of the data set's own."""
    kept = {key: value for key, value in example.items() if key not in ("output", "generator")}
    return kept | {"output": output, "generator": generator}


def write(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON list."""
    write_json(path, [dict(row) for row in rows])
