"""What both iterative games report with: metrics by arm, seed and round; differences within seeds; error bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from common import Estimate, mean_and_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Metrics = dict[str, float]
Arms = dict[str, list[list[Metrics]]]  # arm to [seeds][rounds]

TEST = (
    "A difference is called shown when, within seeds, it is more than two standard errors away from 0. With three\n"
    "seeds that is a weak test (p is about 0.2 at the border), and many comparisons are made: trust large multiples."
)


def at(runs: Sequence[Sequence[Metrics]], name: str, turn: int = -1) -> list[float]:
    """A metric in one round, of each seed."""
    return [run[turn][name] for run in runs]


def estimate(runs: Sequence[Sequence[Metrics]], name: str, turn: int = -1) -> Estimate:
    """Mean over seeds in one round."""
    return mean_and_error(at(runs, name, turn))


def minus(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Differences within seeds."""
    return [a - b for a, b in zip(one, other, strict=True)]


def verdict(differences: Sequence[float], above: str, below: str) -> str:
    """What is shown of `one minus other`: `above` when it is positive, `below` when negative, or nothing."""
    found = mean_and_error(differences)
    said = "no difference shown" if abs(found.mean) <= 2 * found.error else above if found.mean > 0 else below
    return f"{said} ({found.mean:+.3f} ± {found.error:.3f})"


def finding(claim: str, differences: Sequence[float], above: str, below: str) -> str:
    """A line of the list of findings."""
    return f"- {claim}: **{verdict(differences, above, below)}**."


def lines(axis: Axes, arms: Arms, name: str, title: str) -> None:
    """A metric over rounds, an arm a line, standard errors as bars; arms are set apart so that bars can be told."""
    middle = (len(arms) - 1) / 2
    for i, (arm, runs) in enumerate(arms.items()):
        found = [estimate(runs, name, turn) for turn in range(len(runs[0]))]
        places = [turn + 0.04 * (i - middle) for turn in range(len(found))]
        axis.errorbar(
            places, [one.mean for one in found], [one.error for one in found], label=arm, marker="o", ms=3.5, capsize=2
        )
    axis.set_title(title, fontsize=10)
    axis.grid(alpha=0.3)


def rounded(arms: Arms) -> Arms:
    """Numbers as they are written to disk."""
    return {
        arm: [[{name: round(value, 5) for name, value in turn.items()} for turn in run] for run in runs]
        for arm, runs in arms.items()
    }
