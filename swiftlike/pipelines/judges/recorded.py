"""Scores that the rows have already: of an earlier run, of people, or of another program."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from swiftlike.core.merge import Run
from swiftlike.datasets_registry.apo import samples_of
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.columns import SCORES
from swiftlike.pipelines.judges.card import Done, Group, ScorerCard, Scores


class Recorded:
    """A list as long as the answers, or numbers by the name of an answer's column (APO)."""

    def score(self, groups: Sequence[Group], done: Done) -> None:
        """A group is an error when it has no such column."""
        for g, group in enumerate(groups):
            try:
                done(g, _scores(group.record, group.row.size))
            except BadRow as error:
                done(g, str(error))

    def close(self) -> None:
        """Nothing is held."""


def _scores(record: Mapping[str, Any], size: int) -> Scores:
    column = next((name for name in SCORES if isinstance(record.get(name), list | dict)), "")
    if not column:
        raise BadRow("no scores", f"none of the columns {', '.join(SCORES)}")
    found = record[column]
    values = [found.get(key) for key in samples_of(record)] if isinstance(found, dict) else found
    if len(values) != size:
        raise BadRow("scores do not match answers", f"{size} answers, {len(values)} in {column}")
    return [_score(value, column) for value in values]


def _score(value: Any, column: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadRow("not a score", f"{column} has {value!r}")
    return float(value)


def _open(run: Run) -> Recorded:
    return Recorded()


CARD = ScorerCard(name="recorded", help="the rewards, scores or ratings that the rows have", open=_open)
