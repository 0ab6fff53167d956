"""The reliability diagram of a reward model: how often an answer is the better one, by how likely the model says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from swiftlike.core.log import get_logger
from swiftlike.losses.calibration import as_bins, errors

log = get_logger(__name__)


class Reliability(TrainerCallback):
    """`images/reliability_bin10.png` at the end, from the last evaluation: `measured` gives its sums."""

    def __init__(self, folder: Path, measured: Callable[[], Mapping[str, tuple[float, float]]]) -> None:
        self.folder, self.measured = folder, measured

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            for n, bins in as_bins(self.measured()).items():
                log.info(
                    "reliability diagram: %s", draw_reliability(self.folder / f"images/reliability_bin{n}.png", bins)
                )


def draw_reliability(path: Path, bins: Sequence[tuple[float, float, float]]) -> Path:
    """Draw (summed probabilities, summed outcomes, count) of each bin: above, what came true of what was said; below,
    how many comparisons each bin has."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path.parent.mkdir(exist_ok=True)
    n, total = len(bins), sum(count for _, _, count in bins)
    full = [(i, p / count, y / count) for i, (p, y, count) in enumerate(bins) if count]
    figure = Figure(figsize=(5, 6))
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color="gray", linestyle="--", label="perfectly calibrated")
    above.bar(
        [(i + 0.5) / n for i, _, _ in full], [y for _, _, y in full], 0.96 / n, alpha=0.5, label="share that came true"
    )
    above.plot([p for _, p, _ in full], [y for _, _, y in full], "o", color="tab:red", label="mean probability said")
    above.set(ylim=(0, 1), ylabel="answer is the better one")
    above.legend(loc="upper left", fontsize="small")
    above.set_title(", ".join(f"{name} {value:.3f}" for name, value in errors(bins).items()) + f"  ({n} bins)")
    below.bar(
        [(i + 0.5) / n for i in range(n)], [count / max(total, 1) for _, _, count in bins], 0.96 / n, color="gray"
    )
    below.set(xlim=(0, 1), xlabel="probability said by the model", ylabel="share")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    return path
