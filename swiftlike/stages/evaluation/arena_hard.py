"""Arena-Hard (Li et al. 2024): every model meets one baseline twice per question, a judge says who is better.

A model that only ever meets the baseline has the maximum-likelihood strength (Bradley-Terry) that gives its own share
of wins, a tie being half of one: the Elo rating and the win rate have a closed form, and models do not influence each
other.
"""

from __future__ import annotations

import dataclasses as dc
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from swiftlike.core.files import read_jsonl
from swiftlike.stages.conversation import Chat, assistant_turn, user_turn

SAMPLING: Mapping[str, float] = {"temperature": 0.0}
BASELINE = "gpt-4-0314"
PATTERN = r"\[\[([AB<>=]+)\]\]"
CONTEXT, RESERVE = 4096, 300  # tokens of prompt and answer together; tokens kept free for the template
_ANCHOR, _SCALE = 1000.0, 400.0  # Elo of the baseline; points for odds of 10
_OUTCOMES = ("model_a", "model_b", "tie")  # the baseline is model_a, whatever side it was shown on
_ASK_AGAIN = "Please finish with your verdict, written as one of the labels you were given."

# verdict to (winner, whether the win is a clear one) for a game that shows the baseline as assistant A
_VERDICTS = {
    "A=B": ("tie", False),
    "A>B": ("model_a", False),
    "A>>B": ("model_a", True),
    "B>A": ("model_b", False),
    "B>>A": ("model_b", True),
}
_SWAPPED = {"model_a": "model_b", "model_b": "model_a", "tie": "tie"}


def max_tokens(prompt_tokens: int) -> int:
    """Tokens that an answer may have."""
    return CONTEXT - prompt_tokens - RESERVE


def turn(content: str, count: Callable[[str], int]) -> dict[str, Any]:
    """An answer as it stands in the answer file, with its length in tokens."""
    return {"content": content.strip(), "token_len": count(content.strip())}


def verdict(text: str, pattern: str = PATTERN) -> tuple[str | None, bool]:
    """The judge's label, None without exactly one distinct label; and whether to ask again, as there is none at all."""
    found = sorted({label for label in re.findall(pattern, text) if label})
    return found[0] if len(found) == 1 else None, not found


def judge_game(
    messages: Chat, judge: Callable[[Chat], str], *, attempts: int = 2, pattern: str = PATTERN
) -> dict[str, Any]:
    """One game: `judgment`, all that the judge said, and `score`, its label. A judge that gives none is asked again."""
    said, score, talk = "", None, list(messages)
    for _ in range(attempts):
        answer = judge(talk)
        said += "\n" + answer
        score, again = verdict(said, pattern)
        if not again:
            break
        talk = [*talk, assistant_turn(answer), user_turn(_ASK_AGAIN)]
    return {"judgment": said, "score": score}


@dc.dataclass(frozen=True, slots=True)
class Battle:
    """One counted win or tie against the baseline."""

    model: str
    winner: str  # one of model_a (the baseline), model_b, tie


def battles(judgments: Iterable[Mapping[str, Any]], *, weight: int = 3, first_game_only: bool = False) -> list[Battle]:
    """Battles of judgments (`model`, `games` with their `score`): clear wins `weight` times, games without score not.

    The first game of a question shows the baseline as assistant A, the second the model.
    """
    found: list[Battle] = []
    for one in judgments:
        games = one["games"][: 1 if first_game_only else 2]
        for swapped, game in enumerate(games):
            if game["score"] not in _VERDICTS:
                continue
            winner, clear = _VERDICTS[game["score"]]
            winner = _SWAPPED[winner] if swapped else winner
            found += [Battle(one["model"], winner)] * (weight if clear else 1)
    return found


def winner_counts(found: Iterable[Battle]) -> dict[str, dict[str, int]]:
    """Model to how often each outcome was counted."""
    counts: dict[str, Counter[str]] = {}
    for battle in found:
        counts.setdefault(battle.model, Counter())[battle.winner] += 1
    return {model: {outcome: count[outcome] for outcome in _OUTCOMES} for model, count in counts.items()}


def win_share(counts: Mapping[str, int]) -> float:
    """The model's share of wins, a tie being half a win; 0.5 where nothing was counted."""
    total = sum(counts.values())
    return (counts["model_b"] + counts["tie"] / 2) / total if total else 0.5


def elo(share: float) -> float:
    """Rating that gives this expected share of wins against the baseline; infinite for 0 and 1."""
    if share in (0.0, 1.0):
        return math.copysign(math.inf, share - 0.5)
    return _ANCHOR + _SCALE * math.log10(share / (1 - share))


@dc.dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A model's result. `win_rate`, `lower` and `upper` (95 % interval) in percent; `tokens` the mean answer length."""

    model: str
    elo: float
    win_rate: float
    lower: float
    upper: float
    tokens: int = 0

    def line(self) -> str:
        """One line of the report, in the layout that `summary` reads."""
        interval = (round(self.lower - self.win_rate, 1), round(self.upper - self.win_rate, 1))
        score = f"score: {round(self.win_rate, 1):^5} | 95% CI: {interval!s:^12}"
        return f"{self.model:<30} | {score} | average #tokens: {self.tokens}"


def scores(
    found: Sequence[Battle],
    *,
    baseline: str = BASELINE,
    tokens: Mapping[str, int] | None = None,
    rounds: int = 100,
    seed: int = 42,
) -> list[Score]:
    """Every model's result and the baseline's own, best first. The intervals are bootstrapped over all battles."""
    shares = {model: win_share(counts) for model, counts in winner_counts(found).items() if model != baseline}
    intervals = bootstrap(found, rounds=rounds, seed=seed)
    shares[baseline], intervals[baseline] = 0.5, (0.5, 0.5)
    results = [
        Score(
            model=model,
            elo=elo(share),
            win_rate=_percent(share),
            lower=_percent(intervals[model][0]),
            upper=_percent(intervals[model][1]),
            tokens=(tokens or {}).get(model, 0),
        )
        for model, share in shares.items()
    ]
    return sorted(results, key=lambda one: (-one.win_rate, one.model))


def bootstrap(found: Sequence[Battle], *, rounds: int = 100, seed: int = 42) -> dict[str, tuple[float, float]]:
    """Model to the 2.5 and 97.5 percentiles of its win share when as many battles are drawn with replacement.

    A round that draws none of a model's battles says nothing about it.
    """
    import numpy as np

    models = list(dict.fromkeys(battle.model for battle in found))
    worth = {"model_a": 0.0, "model_b": 1.0, "tie": 0.5}
    owner = np.array([models.index(battle.model) for battle in found], dtype=np.int64)
    value = np.array([worth[battle.winner] for battle in found])
    draws = np.random.RandomState(seed)
    shares = np.full((rounds, len(models)), np.nan)
    for row in shares if found else ():
        drawn = draws.choice(len(found), size=len(found))
        played = np.bincount(owner[drawn], minlength=len(models))
        won = np.bincount(owner[drawn], weights=value[drawn], minlength=len(models))
        np.divide(won, played, out=row, where=played > 0)
    known = {model: column[~np.isnan(column)] for model, column in zip(models, shares.T, strict=True)}
    return {
        model: tuple(np.percentile(column, (2.5, 97.5)).tolist()) if len(column) else (0.0, 1.0)
        for model, column in known.items()
    }


def mean_tokens(answers: Iterable[Mapping[str, Any]]) -> int:
    """Mean length of a model's answers, rounded down; 0 without any."""
    lengths = [row["choices"][0]["turns"][0]["token_len"] for row in answers]
    return int(sum(lengths) / len(lengths)) if lengths else 0


def read_judgments(paths: Iterable[Any]) -> list[dict[str, Any]]:
    """The lines of judgment files, one file per model, in the order of their names."""
    return [row for path in sorted(paths) for _, row in read_jsonl(path)]


def _percent(share: float) -> float:
    return round(100 * share, 2)
