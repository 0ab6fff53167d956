"""Verdicts, counts and ratings of Arena-Hard."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies

from swiftlike.stages.evaluation import arena_hard
from swiftlike.stages.evaluation.arena_hard import (
    Battle,
    battles,
    bootstrap,
    elo,
    scores,
    verdict,
    win_share,
    winner_counts,
)

GAMES = strategies.sampled_from(["A>>B", "A>B", "A=B", "B>A", "B>>A", None, "A<B"])
JUDGMENTS = strategies.lists(
    strategies.builds(
        lambda model, first, second: {"model": model, "games": [{"score": first}, {"score": second}]},
        strategies.sampled_from(["m1", "m2", "m3"]),
        GAMES,
        GAMES,
    ),
    max_size=20,
)


def judged(*games: str, model: str = "m") -> dict:
    return {"model": model, "games": [{"score": score} for score in games]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[A>B]]", ("A>B", False)),
        ("[[A=B]] so [[A=B]]", ("A=B", False)),
        ("[[A>B]] or [[A>>B]]", (None, False)),
        ("[[C]] [A>B]", (None, True)),
    ],
)
def test_verdict(text: str, expected: tuple[str | None, bool]) -> None:
    assert verdict(text) == expected


@pytest.mark.parametrize(
    ("said", "calls", "score"),
    [
        (["[[B>A]]"], 1, "B>A"),
        (["hm", "[[B>A]]"], 2, "B>A"),
        (["hm", "hm", "[[B>A]]"], 2, None),
        (["[[A>B]] [[B>A]]"], 1, None),
    ],
)
def test_a_judge_without_a_verdict_is_asked_once_more(said: list[str], calls: int, score: str | None) -> None:
    talks = []
    game = arena_hard.judge_game(
        [{"role": "user", "content": "who?"}], lambda talk: talks.append(talk) or said[len(talks) - 1]
    )
    assert [len(talk) for talk in talks] == [1, 3][:calls]
    assert game == {"judgment": "".join(f"\n{one}" for one in said[:calls]), "score": score}


def test_sides_are_swapped_in_the_second_game() -> None:
    found = winner_counts(battles([judged("A>>B", "A>B"), judged("A=B", "B>>A"), judged("B>A", None)]))
    assert found == {"m": {"model_a": 6, "model_b": 2, "tie": 1}}
    first = winner_counts(battles([judged("A>>B", "A>B")], weight=2, first_game_only=True))
    assert first == {"m": {"model_a": 2, "model_b": 0, "tie": 0}}


@given(JUDGMENTS)
def test_rating_is_the_strength_that_expects_the_share_of_wins(judgments: list[dict]) -> None:
    found = battles(judgments)
    for one in scores(found, baseline="base", rounds=3):
        share = 0.5 if one.model == "base" else win_share(winner_counts(found)[one.model])
        expected = 1 / (1 + 10 ** ((1000 - one.elo) / 400)) if math.isfinite(one.elo) else float(one.elo > 0)
        assert expected == pytest.approx(share)
        assert one.win_rate == round(100 * share, 2)
        assert 0 <= one.lower <= one.upper <= 100


@given(JUDGMENTS)
def test_models_do_not_influence_each_other(judgments: list[dict]) -> None:
    together = {one.model: one.elo for one in scores(battles(judgments), rounds=2)}
    for model in {one["model"] for one in judgments}:
        alone = scores(battles([one for one in judgments if one["model"] == model]), rounds=2)
        assert {one.model: one.elo for one in alone}.get(model) == together.get(model)


def test_only_wins_and_only_losses() -> None:
    found = battles([judged("B>A", "A>B", model="up"), judged("A>B", "B>A", model="down")])
    result = {one.model: (one.win_rate, one.elo, one.lower, one.upper) for one in scores(found, baseline="base")}
    assert result == {
        "up": (100.0, math.inf, 100.0, 100.0),
        "base": (50.0, 1000.0, 50.0, 50.0),
        "down": (0.0, -math.inf, 0.0, 0.0),
    }
    assert elo(0.5) == 1000


def test_nothing_counted() -> None:
    assert [one.model for one in scores(battles([judged(None, None)]), baseline="base")] == ["base"]


def test_intervals_are_those_of_drawing_rows_of_a_table() -> None:
    draws = np.random.RandomState(0)
    found = [Battle(f"m{draws.randint(3)}", ("model_a", "model_b", "tie")[draws.randint(3)]) for _ in range(300)]
    worth = {"model_a": 0.0, "model_b": 1.0, "tie": 0.5}
    table = pd.DataFrame({"model": [one.model for one in found], "won": [worth[one.winner] for one in found]})
    np.random.seed(42)
    rounds = pd.DataFrame([table.sample(frac=1.0, replace=True).groupby("model")["won"].mean() for _ in range(100)])
    for model, interval in bootstrap(found).items():
        assert interval == pytest.approx(np.percentile(rounds[model], [2.5, 97.5]).tolist())
        assert interval[0] < table.won[table.model == model].mean() < interval[1]


def test_a_model_with_one_battle_among_many() -> None:
    found = [Battle("rare", "model_b"), *[Battle("often", "tie")] * 50]
    assert bootstrap(found) == {"rare": (1.0, 1.0), "often": (0.5, 0.5)}
    assert bootstrap(found, rounds=0)["rare"] == (0.0, 1.0)


def test_answers_get_what_the_context_leaves() -> None:
    assert arena_hard.max_tokens(96) == 3700
    answers = [
        {"choices": [{"turns": [arena_hard.turn(f" {'w ' * n}", lambda text: len(text.split()))]}]} for n in (2, 5)
    ]
    assert answers[0]["choices"][0]["turns"] == [{"content": "w w", "token_len": 2}]
    assert (arena_hard.mean_tokens(answers), arena_hard.mean_tokens([])) == (3, 0)


def test_judgments_are_read_from_files(tmp_path: Path) -> None:
    for name in ("m2", "m1"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(judged("A=B", "A=B", model=name)) + "\n")
    assert [one["model"] for one in arena_hard.read_judgments(tmp_path.glob("*.jsonl"))] == ["m1", "m2"]
