"""Files of the adversarial game (Cheng et al. 2023): comparisons with a golden answer, score files, best of n."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from swiftlike.datasets_registry.card import BadRow

SEPARATOR = "<sep>"  # between query and answer of one text
ANSWER_KEYS = ("sample_", "gpt4", "ans_")  # a column with one of these in its name holds an answer
ANNOTATED = "hh_best"  # the answer that came with the prompt
_NEXT_TURN = "\nHuman"  # where a model goes on to write the next question itself


def comparison_items(
    query: str, golden: str, samples: Sequence[str], sampling: random.Random | None = None
) -> list[dict[str, Any]]:
    """One item per sample, the golden answer first and better; with `sampling` only one sample, drawn at random."""
    if sampling is not None and samples:
        samples = [sampling.choice(samples)]
    better = query + SEPARATOR + _first_answer(golden)
    return [
        {"text": [better, query + SEPARATOR + _first_answer(sample)], "scores": [1.0, 0.0], "type": "apo"}
        for sample in samples
    ]


def _first_answer(text: str) -> str:
    """Without the turns that a model wrote after its answer. A text without any keeps its white space."""
    answer, mark, _ = text.partition(_NEXT_TURN)
    return answer.strip() if mark else text


def read_scores(objects: Iterable[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Query id -> answer key -> score, of objects {"query_id:answer_key": score}; an id may have colons in it.

    BadRow for a key without a colon.
    """
    found: dict[str, dict[str, float]] = {}
    for one in objects:
        for name, score in one.items():
            query_id, colon, key = name.rpartition(":")
            if not colon:
                raise BadRow("not a score", f"{name!r} is not query_id:answer_key")
            found.setdefault(query_id, {})[key] = score
    return found


def best_of_n(record: Mapping[str, Any], scores: Mapping[str, float]) -> tuple[str, str] | None:
    """Key and text of the answer with the highest score, the first among equals; None when all of them are blank.

    Blank answers cannot win, and `hh_best` only where it is the only one that was scored.
    """
    keys = [key for key in scores if key != ANNOTATED] or list(scores)
    said = {key: record[key] for key in keys if str(record.get(key) or "").strip()}
    best = max(said, key=scores.__getitem__, default=None)
    return None if best is None else (best, said[best])


def samples_of(record: Mapping[str, Any]) -> dict[str, str]:
    """Column -> answer of the columns that hold answers to be scored."""
    return {key: text for key, text in record.items() if any(part in key for part in ANSWER_KEYS)}
