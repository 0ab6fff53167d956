"""Games of two answers under any scorer, and what they come to."""

from __future__ import annotations

import dataclasses as dc
import threading
from collections.abc import Sequence

from swiftlike.core.log import get_logger
from swiftlike.pipelines.judges import Group, GroupScorer, ScorerCard

log = get_logger(__name__)
_WINDOW = 256  # pairs that are handed to the scorer at once
SEED, ROUNDS = 42, 1000


@dc.dataclass(frozen=True, slots=True)
class Played:
    """The verdicts on a pair: 1 where the first answer wins, 0 where it loses, 0.5 for a tie, one for each order of
    the sides. `error` says why there are none."""

    games: tuple[float, ...] = ()
    error: str = ""

    @property
    def value(self) -> float:
        """What the first answer gets, from 0 to 1."""
        return sum(self.games) / len(self.games)

    @property
    def outcome(self) -> str:
        """win, loss or tie: a game won and a game lost are a tie."""
        return "tie" if self.value == 0.5 else "win" if self.value > 0.5 else "loss"


def play(scorer: GroupScorer, card: ScorerCard, pairs: Sequence[Group], tie: float) -> list[Played]:
    """Every pair; in both orders, where what the scorer says of an answer depends on the others. Scores that differ by
    no more than `tie` are one."""
    swaps = card.ranks and not card.both_orders
    played: list[Played] = []
    for start in range(0, len(pairs), _WINDOW):
        part = pairs[start : start + _WINDOW]
        asked = [*part, *(map(_swapped, part) if swaps else ())]
        verdicts = _verdicts(scorer, asked, tie)
        for k in range(len(part)):
            mine = [verdicts[k]]
            if swaps:
                back = verdicts[len(part) + k]
                mine.append(back if isinstance(back, str) else 1 - back)
            error = next((one for one in mine if isinstance(one, str)), "")
            games = tuple(one for one in mine if not isinstance(one, str))
            played.append(Played(error=error) if error else Played(games))
        log.info("%d of %d pairs", len(played), len(pairs))
    return played


def _swapped(pair: Group) -> Group:
    first, second = pair.row.completions
    return dc.replace(pair, row=dc.replace(pair.row, completions=(second, first)))


def _verdicts(scorer: GroupScorer, groups: Sequence[Group], tie: float) -> list[float | str]:
    found: list[float | str] = ["the scorer said nothing"] * len(groups)
    lock = threading.Lock()

    def take(place: int, scores: Sequence[float | None] | str) -> None:
        with lock:
            found[place] = scores if isinstance(scores, str) else _verdict(scores, tie)

    scorer.score(groups, take)
    return found


def _verdict(scores: Sequence[float | None], tie: float) -> float | str:
    first, second = scores
    if first is None or second is None:
        return "an answer has no score"
    return 0.5 if abs(first - second) <= tie else float(first > second)


def interval(values: Sequence[float], *, rounds: int | None = None, seed: int | None = None) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of the mean when as many values are drawn with replacement."""
    import numpy as np

    draws = np.random.RandomState(SEED if seed is None else seed)
    table = np.asarray(values, dtype=np.float64)
    means = [table[draws.randint(len(table), size=len(table))].mean() for _ in range(rounds or ROUNDS)]
    low, high = np.percentile(means, (2.5, 97.5)).tolist()
    return low, high
