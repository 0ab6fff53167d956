"""Scores to ranks to pairs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies

from swiftlike.datasets_registry.shapes import to_row
from swiftlike.stages.ranking import best_and_worst, preference_pair, ranks_of

from .words import bot, system, user

SCORES = strategies.lists(strategies.none() | strategies.integers(-3, 3), min_size=1)


def example(**more: object) -> dict:
    return {"prompt": "q", "responses": ["a", "b", "c"], "ranks": [2, 1, 3], **more}


@given(SCORES)
def test_ranks_order_as_scores_do(scores: list[int | None]) -> None:
    ranks = ranks_of(scores)
    for score, rank in zip(scores, ranks, strict=True):
        if score is None:
            assert rank is None
        else:
            assert rank == 1 + sum(other is not None and other > score for other in scores)


@given(SCORES)
def test_the_pair_is_the_first_best_and_the_first_worst(scores: list[int | None]) -> None:
    found = best_and_worst(ranks_of(scores))
    known = [score for score in scores if score is not None]
    if len(set(known)) < 2:
        assert found is None
    else:
        assert found == (scores.index(max(known)), scores.index(min(known)))


def test_a_score_that_is_no_number_has_no_rank() -> None:
    assert ranks_of([0.5, math.nan, None, 2.0]) == [2, None, None, 1]


def test_length_penalty_is_taken_off_each_token() -> None:
    assert ranks_of([1.0, 1.5, None], [10, 100, 5]) == [2, 1, None]
    assert ranks_of([1.0, 1.5, None], [10, 100, 5], length_penalty=0.01) == [1, 2, None]


@pytest.mark.parametrize(("ranks", "expected"), [([1, 1.9], None), ([1, 2], (0, 1)), ([None, 2], None), ([], None)])
def test_ranks_must_be_one_apart(ranks: list[float | None], expected: object) -> None:
    assert best_and_worst(ranks) == expected


@pytest.mark.parametrize(
    ("mode", "own", "expected"),
    [
        ("keep", None, None),
        ("add", None, ""),
        ("empty", None, ""),
        ("keep", "brief", "brief"),
        ("add", "brief", "brief"),
        ("empty", "brief", ""),
    ],
)
def test_system_message(mode: str, own: str | None, expected: str | None) -> None:
    messages = [user("q")] if own is None else [system(own), user("q")]
    pair = preference_pair(example(messages=messages), system=mode)
    start = [user("q")] if expected is None else [system(expected), user("q")]
    assert pair == {"prompt": "q", "chosen": [*start, bot("b")], "rejected": [*start, bot("c")]}


def test_a_pair_is_a_row_that_training_reads() -> None:
    row, _ = to_row(preference_pair(example()))
    assert [turns.messages[-1].content for turns in row.completions] == ["b", "c"]
    assert row.prompt.messages[-1].content == "q"
