"""What is too near to what is known."""

from __future__ import annotations

import random

import pytest

from swiftlike.stages.similarity import Known

WORDS = ["the", "a", "of", "sea", "wood", "mill", "rain", "road", "clock", "bread", "winter", "garden"]


def test_word_for_word() -> None:
    known = Known(["Tell me more"])
    assert "Tell me more" in known
    assert "tell me more" not in known
    known.add("tell me more")
    assert "tell me more" in known


def test_without_any_rule_nothing_is_known() -> None:
    assert "Tell me more" not in Known(["Tell me more"], exact=False)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_the_short_cut_finds_what_measuring_every_pair_finds(threshold: float) -> None:
    """Repeated words, equal texts, texts without words; the measure against all is the package's own."""
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=False)
    draws = random.Random(3)
    texts = [" ".join(draws.choices(WORDS, weights=range(12, 0, -1), k=draws.randint(0, 9))) for _ in range(160)]
    known, kept = Known(exact=False, rouge=threshold), []
    for text in [*texts, texts[0], "?!"]:
        near = any(scorer.score(other, text)["rougeL"].fmeasure > threshold for other in kept)
        assert (text in known) == near, text
        if not near:
            known.add(text)
            kept.append(text)
    assert 2 < len(kept) <= 162
