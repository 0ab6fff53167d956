"""Records of the formats that `shapes.to_row` does not know, or would take apart too early, in layouts that it reads.

BadRow when a record is not what its format says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from swiftlike.datasets_registry.apo import ANNOTATED, SEPARATOR, samples_of
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.kinds import LeftOut
from swiftlike.datasets_registry.turns import text_of

Record = dict[str, Any]

_POST = ("subreddit", "title", "post")
_TLDR = ({"info", "summaries", "choice"}, {*_POST, "summary"})


def _as_message(text: Any, column: str) -> list[Record]:
    """A prompt whose text is taken as it is, transcript or not."""
    if not isinstance(text, str):
        raise BadRow("prompt is not one text", f"{column} is a {type(text).__name__}; message lists are trl's")
    return [{"role": "user", "content": text}]


def exo(record: Record) -> Record:
    """EXO's rows with a prompt that stays one text."""
    return record | {"prompt": _as_message(record["prompt"], "prompt")}


def exo_generated(record: Record) -> Record:
    """Completions that nobody judged: every score is 0."""
    if not isinstance(record["completions"], list):
        raise BadRow("no list of answers", "completions")
    return exo(record) | {"scores": [0.0] * len(record["completions"])}


def query_of(record: Record) -> str:
    """The prompt of an APO row."""
    column = "query" if "query" in record else "instruction"
    return text_of(record[column], column)


def apo_golden(record: Record) -> Record:
    """query and golden as prompt and completion."""
    rest = {key: value for key, value in record.items() if key not in ("query", "golden", "instruction")}
    return rest | {"prompt": _as_message(query_of(record), "query"), "completion": record["golden"]}


def apo_sample(record: Record) -> Record:
    """Every sample of a query with the score 0."""
    samples = samples_of(record)
    return _comparison(record, samples, dict.fromkeys(samples, 0.0))


def scored_sample(record: Record, scores: Mapping[str, float]) -> Record:
    """A sample row with its scores as one ranking. Blank answers are no part of it, nor is `hh_best` beside others."""
    said = {key: scores[key] for key in scores if key in record and str(record[key] or "").strip()}
    found = {key: score for key, score in said.items() if key != ANNOTATED} or said
    if not found:
        raise LeftOut("no answer that is scored and not blank")
    return _comparison(record, {key: text_of(record[key], key) for key in found}, found)


def _comparison(record: Record, answers: Mapping[str, str], scores: Mapping[str, float]) -> Record:
    used = {"query", "instruction", ANNOTATED, *samples_of(record), *answers}
    rest = {key: value for key, value in record.items() if key not in used}
    texts = [f"{query_of(record)}{SEPARATOR}{answer}" for answer in answers.values()]
    return rest | {"text": texts, "scores": list(scores.values())}


def tldr(record: Record) -> Record:
    """OpenAI's summaries as they were published: a comparison of two, or one summary of a filtered post.

    The prompt is the post under its title and forum, and ends in `TL;DR:`; an answer begins with a space.
    """
    info = record.get("info", record)
    if not isinstance(info, dict) or not all(isinstance(info.get(key), str) for key in _POST):
        raise BadRow("not a post", "it has no subreddit, title and post (news articles have none)")
    lines = (f"SUBREDDIT: r/{info['subreddit']}", f"TITLE: {info['title']}", f"POST: {info['post']}", "TL;DR:")
    prompt = {"prompt": [{"role": "user", "content": "\n".join(lines)}]}
    if "summary" in record:
        return prompt | {"chosen": _summary(record["summary"])}
    summaries, choice = record.get("summaries"), record.get("choice")
    if not isinstance(summaries, list) or len(summaries) != 2 or choice not in (0, 1):
        raise BadRow("not a comparison", f"{_size(summaries)} summaries, choice is {choice!r}")
    texts = [_summary(one.get("text") if isinstance(one, dict) else one) for one in summaries]
    return prompt | {"chosen": texts[choice], "rejected": texts[1 - choice]}


def _summary(text: Any) -> str:
    return " " + text_of(text, "summary").strip()


def _size(value: Any) -> str:
    return str(len(value)) if isinstance(value, list) else "no"


def has_texts(*columns: str) -> Callable[[Record], bool]:
    """Whether these columns of a record are texts."""
    return lambda record: all(isinstance(record.get(column), str) for column in columns)


def has_lists(*columns: str) -> Callable[[Record], bool]:
    """Whether these columns are lists, beside a prompt that is a text."""
    return lambda record: (
        isinstance(record.get("prompt"), str) and all(isinstance(record.get(column), list) for column in columns)
    )


def is_tldr(record: Record) -> bool:
    """Whether it is a published summary."""
    return any(columns <= record.keys() for columns in _TLDR)


def is_sample(record: Record) -> bool:
    """Whether it is a query with sampled answers."""
    return bool({"query", "instruction"} & record.keys()) and any(key.startswith("sample_") for key in record)
