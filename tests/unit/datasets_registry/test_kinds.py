from __future__ import annotations

from typing import Any

import pytest

from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.kinds import LeftOut, kind_of, to_kind
from swiftlike.datasets_registry.row import Row
from swiftlike.datasets_registry.shapes import to_row

PAIR = {"query": "q", "response": "good", "rejected_response": "bad", "margin": 1.0}
RANKED = {"prompt": "q", "completions": ["b", "worst", "best", "a"], "rewards": [0.2, -1.0, 3.0, 0.2]}
LABELLED = {"query": "q", "response": "good", "label": True}
ANSWER = {"query": "q", "response": "good"}


def row(record: dict[str, Any]) -> Row:
    return to_row(record)[0]


def answers(*rows: Row) -> list[str]:
    return [turns.messages[-1].content for one in rows for turns in one.completions]


@pytest.mark.parametrize("kind", ["auto", "pair"])
def test_the_same_kind_is_untouched(kind: str) -> None:
    assert to_kind(row(PAIR), kind) == (row(PAIR),)


def test_pairs_give_chosen_verdicts_and_rankings() -> None:
    assert answers(*to_kind(row(PAIR), "completion")) == ["good"]
    good, bad = to_kind(row(PAIR), "labelled")
    assert (answers(good, bad), good.label, bad.label) == (["good", "bad"], True, False)
    (ranked,) = to_kind(row(PAIR), "ranked")
    assert (ranked.scores, ranked.margin, answers(ranked)) == ((1.0, 0.0), None, ["good", "bad"])


def test_rankings_give_best_against_worst() -> None:
    (pair,) = to_kind(row(RANKED), "pair")
    assert (answers(pair), pair.scores, kind_of(pair)) == (["best", "worst"], (), "pair")
    assert answers(*to_kind(row(RANKED), "completion")) == ["best"]
    assert [one.label for one in to_kind(row(RANKED), "labelled")] == [True, False]


def test_each_completion_keeps_the_prompt_it_answers() -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    other = [{"role": "user", "content": "r"}, {"role": "assistant", "content": "b"}]
    good, bad = to_kind(row({"messages": turns, "rejected_messages": other}), "labelled")
    assert [one.prompt.messages[0].content for one in (good, bad)] == ["q", "r"]
    assert not good.prompts


def test_anything_gives_its_prompt_and_a_prompt_alone_trains_nothing() -> None:
    for record in (PAIR, RANKED, LABELLED, ANSWER, {"query": "q"}):
        (prompt,) = to_kind(row(record), "prompt")
        assert (kind_of(prompt), prompt.prompt.messages[0].content) == ("prompt", "q")
    with pytest.raises(BadRow, match="only a prompt"):
        to_kind(row({"query": "q"}), "auto")


def test_ties_and_disliked_answers_are_left_out() -> None:
    with pytest.raises(LeftOut, match="tie"):
        to_kind(row({**RANKED, "rewards": [1, 1, 1, 1]}), "pair")
    with pytest.raises(LeftOut, match="labelled false"):
        to_kind(row({**LABELLED, "label": False}), "completion")
    assert kind_of(to_kind(row(LABELLED), "completion")[0]) == "completion"


@pytest.mark.parametrize(
    ("record", "kind", "missing"),
    [
        (ANSWER, "pair", "rejected_response"),
        (ANSWER, "labelled", "label"),
        (ANSWER, "ranked", "rewards"),
        (LABELLED, "pair", "rejected_response"),
        ({"query": "q"}, "completion", "response"),
    ],
)
def test_a_kind_that_cannot_be_made_names_the_missing_columns(record: dict[str, Any], kind: str, missing: str) -> None:
    with pytest.raises(BadRow, match=missing):
        to_kind(row(record), kind)
