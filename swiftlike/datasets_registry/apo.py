"""Files of the adversarial game (Cheng et al. 2023): comparisons with a golden answer, score files, best of n."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from swiftlike.datasets_registry.card import BadRow

SEPARATOR = "<sep>"  # between query and answer of one text
NOT_SCORED = -1  # stands where a text has no score: it is asked for, or the text only fills up an item
DUMMY = "\n\nHuman: ?\n\nAssistant: <sep> Some"
ANSWER_KEYS = ("sample_", "gpt4", "ans_")  # a column with one of these in its name holds an answer
ANNOTATED = "hh_best"  # the answer that came with the prompt
_NEXT_TURN = "\nHuman"  # where a model goes on to write the next question itself


def padded_item(texts: Sequence[str], scores: Sequence[float], size: int) -> dict[str, Any]:
    """Texts and scores of one item, filled up to `size` answers with a dummy of score -1."""
    missing = max(size - len(texts), 0)
    return {
        "text": [*texts, *[DUMMY] * missing],
        "scores": [*scores, *[float(NOT_SCORED)] * missing],
    }


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


def flat_samples(records: Iterable[Mapping[str, Any]], path: str) -> Iterator[dict[str, Any]]:
    """One item per answer, to be scored; its id says which file, query and column it came from."""
    for record in records:
        query = record["query"] if "query" in record else record.get("instruction")
        if query is None or "query_id" not in record:
            raise BadRow("not a sample", f"it has {', '.join(record) or 'no keys'}, not query and query_id")
        for key, text in samples_of(record).items():
            yield {
                "text": [f"{query}{SEPARATOR}{text}"],
                "query_ids": [f"{path}<:>{record['query_id']}<:>{key}"],
                "scores": [NOT_SCORED],
            }


def preference_to_reward(record: Mapping[str, Any]) -> dict[str, Any]:
    """A pair as two completions with rewards 1 and 0, chosen first (EXO's alignment format)."""
    return {
        "prompt": record["prompt"],
        "completions": [record["chosen"], record["rejected"]],
        "rewards": [1, 0],
    }
