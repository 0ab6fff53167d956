"""MT-Bench (Zheng et al. 2023): how warm each category is sampled, verdicts, averages, and the report of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

SAMPLING: Mapping[str, float] = {"top_k": 50, "max_new_tokens": 1024}
TEMPERATURES = {
    **dict.fromkeys(("writing", "roleplay"), 0.7),
    **dict.fromkeys(("extraction", "math", "coding", "reasoning"), 0.0),
    **dict.fromkeys(("stem", "humanities"), 0.1),
}
_OTHER = 0.7
_RATINGS = tuple(re.compile(pattern) for pattern in (r"\[\[(\d+\.?\d*)\]\]", r"\[(\d+\.?\d*)\]"))
NO_SCORE = -1.0  # written where the judge gave none; such lines do not count
AVERAGE = "########## Average ##########"


def temperature(category: str) -> float:
    """Of a question's category."""
    return TEMPERATURES.get(category, _OTHER)


def rating(judgment: str) -> float:
    """The score, 1 to 10, that a judge wrote as `[[7]]` or at least `[7]`; -1 without one."""
    found = next((match for pattern in _RATINGS if (match := pattern.search(judgment))), None)
    return NO_SCORE if found is None else float(found[1])


def averages(judgments: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Model to mean score of `first` turn, `second` turn and `both` (over all answers, not over the two means).

    Lines have `question_id`, `model`, `turn` and `score`; of several for one answer the last counts, and -1 does not.
    """
    last = {(one["question_id"], one["model"], one["turn"]): one["score"] for one in judgments}
    scores: dict[str, dict[str, list[float]]] = {}
    for (_, model, turn), score in last.items():
        if score != NO_SCORE:
            columns = scores.setdefault(model, {})
            for column in ("first" if turn == 1 else "second", "both"):
                columns.setdefault(column, []).append(score)
    return {model: {column: fmean(values) for column, values in found.items()} for model, found in scores.items()}


def win_rates(judgments: Iterable[Mapping[str, Any]], baseline: str | None = None) -> dict[str, dict[str, float]]:
    """Model to `win`, `loss`, `tie` and `win_rate` (a tie is half a win), from games with swapped sides.

    Lines have `model_1`, `model_2`, `g1_winner`, `g2_winner`; only a model that wins both games wins, and a game that
    went wrong (`error`) voids its line. With `baseline`, only games against it count and it gets no line itself.
    """
    counts: dict[str, Counter[str]] = {}
    for one in judgments:
        models, winners = (one["model_1"], one["model_2"]), {one["g1_winner"], one["g2_winner"]}
        if "error" in winners or (baseline is not None and baseline not in models):
            continue
        clear = len(winners) == 1 and "tie" not in winners
        for side, model in zip(("model_1", "model_2"), models, strict=True):
            outcome = ("win" if side in winners else "loss") if clear else "tie"
            counts.setdefault(model, Counter())[outcome] += 1
    return {model: _rates(count) for model, count in counts.items() if model != baseline}


def _rates(count: Counter[str]) -> dict[str, float]:
    outcomes = {name: count[name] for name in ("win", "loss", "tie")}
    return {**outcomes, "win_rate": (count["win"] + count["tie"] / 2) / count.total()}


def report(found: Mapping[str, Mapping[str, float]]) -> str:
    """Averages as text, best first, in the layout that `summary` reads."""
    parts = []
    for title, column in (
        ("########## First turn ##########", "first"),
        ("########## Second turn ##########", "second"),
        (AVERAGE, "both"),
    ):
        ordered = sorted(
            ((columns[column], model) for model, columns in found.items() if column in columns),
            key=lambda one: (-one[0], one[1]),
        )
        parts.append("\n".join([title, "model score", *(f"{model} {score:.6g}" for score, model in ordered)]))
    return "\n\n".join(parts) + "\n"
