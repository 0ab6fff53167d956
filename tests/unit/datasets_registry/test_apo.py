"""Files of the adversarial game."""

from __future__ import annotations

import random

import pytest

from swiftlike.datasets_registry import apo
from swiftlike.datasets_registry.card import BadRow


def test_one_sample_drawn_at_random() -> None:
    samples = ["a", "b", "c"]
    every = apo.comparison_items("q", "g", samples)
    drawn = [apo.comparison_items("q", "g", samples, random.Random(seed)) for seed in range(20)]
    assert all(len(one) == 1 and one[0] in every for one in drawn)
    assert {one[0]["text"][1] for one in drawn} == {f"q<sep>{text}" for text in samples}
    again = [apo.comparison_items("q", "g", samples, random.Random(seed)) for seed in range(20)]
    assert drawn == again
    assert apo.comparison_items("q", "g", [], random.Random(0)) == []


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (" a ", " a "),
        (" a \nHuman: b", "a"),
        ("a\n\nHuman: b\n\nAssistant: c\nHuman: d", "a"),
        ("a Human: b", "a Human: b"),
        ("\nHuman: b", ""),
    ],
)
def test_answers_end_where_a_question_follows(said: str, kept: str) -> None:
    (item,) = apo.comparison_items("q", said, [said])
    assert item["text"] == [f"q<sep>{kept}"] * 2


def test_ids_with_colons() -> None:
    found = apo.read_scores([{"a:b:sample_0": 1.0}, {"a:b:sample_1": 2.0, "c:gpt4": 0.5}])
    assert found == {"a:b": {"sample_0": 1.0, "sample_1": 2.0}, "c": {"gpt4": 0.5}}
    with pytest.raises(BadRow, match="'sample_0' is not query_id:answer_key"):
        apo.read_scores([{"sample_0": 1.0}])


@pytest.mark.parametrize(
    ("record", "scores", "best"),
    [
        ({"sample_0": "a", "sample_1": "b"}, {"sample_0": -9.0, "sample_1": -8.0}, ("sample_1", "b")),
        ({"sample_0": "a", "sample_1": "b"}, {"sample_0": 1.0, "sample_1": 1.0}, ("sample_0", "a")),
        ({"sample_0": "a", "sample_1": " \n"}, {"sample_0": 1.0, "sample_1": 9.0}, ("sample_0", "a")),
        ({"sample_0": "a", "hh_best": "h"}, {"sample_0": 1.0, "hh_best": 9.0}, ("sample_0", "a")),
        ({"hh_best": "h"}, {"hh_best": 9.0}, ("hh_best", "h")),
        ({"sample_0": "", "hh_best": "h"}, {"sample_0": 1.0, "hh_best": 9.0}, None),
        ({"sample_0": None}, {"sample_0": 1.0, "sample_7": 2.0}, None),
    ],
)
def test_best_of_n(record: dict, scores: dict[str, float], best: tuple[str, str] | None) -> None:
    assert apo.best_of_n(record, scores) == best
