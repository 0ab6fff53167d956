"""PairRM, the ranker of the AIPO pipeline, through its own package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swiftlike.core.merge import Run
from swiftlike.core.optional import require
from swiftlike.pipelines.judges.card import Done, Group, ScorerCard

_PAIRRM = "llm-blender/PairRM"


class PairRm:
    """llm-blender compares all answers of a prompt; its scores rank them."""

    def __init__(self, blender: Any, batch_size: int) -> None:
        self.blender, self.batch_size = blender, batch_size

    def score(self, groups: Sequence[Group], done: Done) -> None:
        """The prompt that is shown is the raw instruction."""
        for size in sorted({group.row.size for group in groups}):  # the package takes lists of one length
            places = [g for g, group in enumerate(groups) if group.row.size == size]
            prompts, answers = [groups[g].prompt for g in places], [groups[g].answers for g in places]
            scores = self.blender.rank(prompts, answers, return_scores=True, batch_size=self.batch_size)
            for g, found in zip(places, scores, strict=True):
                done(g, [float(score) for score in found])

    def close(self) -> None:
        """Nothing is held."""


def _open(run: Run) -> PairRm:
    package = require("llm_blender", because="--scorer pairrm", extra="pairrm", package="llm-blender")
    blender = package.Blender()
    blender.loadranker(run.model.model or _PAIRRM)
    return PairRm(blender, run.pairwise.pair_batch_size)


CARD = ScorerCard(name="pairrm", help="PairRM, through the package llm-blender", open=_open, ranks=True)
