"""From the kind of rows a file offers to the kind an objective needs."""

from __future__ import annotations

import dataclasses as dc

from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import Row, Turns

MISSING = {
    "completion": "an answer (response, completion, output, or a last assistant message)",
    "pair": "a rejected answer (rejected_response, rejected or rejected_messages)",
    "labelled": "a verdict (label, true or false)",
    "ranked": "scored answers (completions with rewards or scores)",
}

WORDS = {
    "prompt": "only a prompt",
    "completion": "a single answer",
    "pair": "a pair",
    "labelled": "a labelled answer",
    "ranked": "a ranking",
}


class LeftOut(Exception):  # noqa: N818 - a verdict on a good row, not an error
    """A good record that gives no row of the wanted kind, by design (a tie). The text is counted in the report."""


def kind_of(row: Row) -> str:
    """completion, pair, labelled, ranked, or prompt when there is no answer."""
    if row.label is not None:
        return "labelled"
    if row.scores:
        return "ranked"
    return {0: "prompt", 1: "completion"}.get(row.size, "pair")


def to_kind(row: Row, kind: str) -> tuple[Row, ...]:
    """The rows of that kind that a row gives. LeftOut for a tie, BadRow when it can never give any.

    A pair gives its chosen answer, two labelled answers, or a ranking with scores 1 and 0; a ranking gives its best
    answer, or best against worst; a labelled answer is an answer to train on only when it was liked. Anything gives
    its prompt; "auto" leaves a row as it is, "any" does so even when it has no answer.
    """
    have = kind_of(row)
    if kind == "prompt":
        return (dc.replace(row, prompts=(), completions=(), scores=(), label=None, margin=None),)
    if kind == "auto" and have == "prompt":
        raise BadRow("unknown layout", "only a prompt, no answer")
    if kind in ("any", "auto", have):
        return (row,)
    if have == "ranked" and kind in ("pair", "labelled", "completion"):
        row = best_against_worst(row) if kind != "completion" else _only(row, _best(row))
        return (row,) if kind != "labelled" else _verdicts(row)
    if have == "pair" and kind in ("completion", "labelled"):
        return (_only(row, 0),) if kind == "completion" else _verdicts(row)
    if have == "pair" and kind == "ranked":
        return (dc.replace(row, scores=(1.0, 0.0), margin=None),)
    if have == "labelled" and kind == "completion":
        if not row.label:
            raise LeftOut("an answer labelled false is not trained on")
        return (dc.replace(row, label=None),)
    raise BadRow(f"no {kind} in it", f"it has {WORDS[have]}; missing is {MISSING[kind]}")


def best_against_worst(row: Row) -> Row:
    """The pair of the highest and the lowest score. LeftOut when all scores are equal."""
    best, worst = _best(row), min(range(row.size), key=lambda k: (row.scores[k], -k))
    if row.scores[best] == row.scores[worst]:
        raise LeftOut("a tie: all scores are equal")
    prompts: tuple[Turns, ...] = (row.prompt_of(best), row.prompt_of(worst))
    return dc.replace(
        row,
        prompt=prompts[0],
        prompts=prompts if prompts[0] != prompts[1] else (),
        completions=(row.completions[best], row.completions[worst]),
        scores=(),
    )


def _best(row: Row) -> int:
    return max(range(row.size), key=lambda k: (row.scores[k], -k))


def _only(row: Row, k: int, label: bool | None = None) -> Row:
    return dc.replace(
        row, prompt=row.prompt_of(k), prompts=(), completions=(row.completions[k],), scores=(), margin=None, label=label
    )


def _verdicts(row: Row) -> tuple[Row, ...]:
    return _only(row, 0, label=True), _only(row, 1, label=False)


# What a data set that holds one kind can train, for cards.
FROM_ANSWERS = ("completion",)
FROM_LABELLED = ("labelled", "completion")
FROM_PAIRS = ("pair", "completion", "labelled", "ranked")
FROM_RANKED = ("ranked", "pair", "completion", "labelled")


def differing(row: Row) -> Row | None:
    """The row, or None when an answer is empty or both are the same: public sets are known to hold such rows."""
    said = [turns.messages[-1].content.strip() for turns in row.completions]
    return row if all(said) and len(set(said)) > 1 else None
