"""Scores of a reward model that swiftlike trained, or of a sequence classifier with one label."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run
from swiftlike.engines.base import Scorer
from swiftlike.pipelines.judges.card import Done, Group, ScorerCard, Scores


class RewardScorer:
    """The answers of a group are scored together, or those of all groups.

    What is computed together changes the last digits of a reward. A group by itself has the same rewards whatever else
    the data holds, and where a run was stopped or split.
    """

    def __init__(self, scorer: Scorer, *, together: bool = False) -> None:
        self.scorer, self.together = scorer, together

    def score(self, groups: Sequence[Group], done: Done) -> None:
        """A group is an error when none of its answers has a reward."""
        if self.together:
            self._score(groups, done)
            return
        for g, group in enumerate(groups):
            self._score([group], lambda _, scores, g=g: done(g, scores))

    def _score(self, groups: Sequence[Group], done: Done) -> None:
        places = [(g, k) for g, group in enumerate(groups) for k in range(group.row.size)]
        scores: list[Scores] = [[None] * group.row.size for group in groups]
        left = [group.row.size for group in groups]
        lock = threading.Lock()

        def take(place: int, score: float | str) -> None:
            g, k = places[place]
            with lock:
                if not isinstance(score, str):
                    scores[g][k] = float(score)
                left[g] -= 1
                complete = not left[g]
            if complete:
                done(g, scores[g] if any(one is not None for one in scores[g]) else str(score))

        self.scorer.score([groups[g].conversation(k) for g, k in places], take)

    def close(self) -> None:
        """Nothing is held."""


def _open(run: Run) -> RewardScorer:
    from swiftlike.pipelines.serving import open_model, open_scorer  # seconds that other scorers need not wait

    opened = open_model(run)
    if not opened.reward:
        raise UserError(
            f"{opened.model_folder} is not a reward model",
            hint="train one with `swiftlike rlhf --rlhf_type rm`, or see --scorer",
        )
    return RewardScorer(open_scorer(run, opened), together=run.engine.max_batch_size is not None)


CARD = ScorerCard(name="reward", help="a reward model", open=_open)
