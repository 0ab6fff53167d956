"""What judges answers: one file per scorer. A plugin adds its own with `SCORERS.add(ScorerCard(...))`."""

from __future__ import annotations

from swiftlike.core.registry import Registry
from swiftlike.pipelines.judges.card import Done, Group, GroupScorer, ScorerCard

SCORERS: Registry[ScorerCard] = Registry("scorer", "swiftlike.pipelines.judges", ScorerCard)

__all__ = ["SCORERS", "Done", "Group", "GroupScorer", "ScorerCard"]
