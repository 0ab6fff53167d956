"""Whether answers win as often as a reward model says: expected, average and largest calibration error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    Sums = dict[str, tuple[Tensor, Tensor]]

_PREFIX = "calibration"


def calibration_error(
    y_true: Sequence[float], y_prob: Sequence[float], n_bins: int = 10, strategy: str = "uniform"
) -> dict[str, float]:
    """ECE, ACE and MCE of probabilities against outcomes of 0 and 1. `strategy`: "uniform" bins of equal width, or
    "quantile" bins of about equally many values."""
    import torch

    outcomes, probabilities = (torch.as_tensor(one, dtype=torch.float64) for one in (y_true, y_prob))
    return errors(bin_sums(outcomes, probabilities, edges(probabilities, n_bins, strategy)).T.tolist())


def edges(probabilities: Tensor, n_bins: int, strategy: str = "uniform") -> Tensor:
    """The n - 1 inner edges of the bins, in float64."""
    import torch

    inner = torch.arange(1, n_bins, dtype=torch.float64, device=probabilities.device) * (1 / n_bins)
    if strategy == "uniform" or not len(probabilities):
        return inner
    if strategy != "quantile":
        raise ValueError(f"strategy {strategy!r} is not uniform or quantile")
    return torch.quantile(probabilities.double(), inner)


def bin_sums(outcomes: Tensor, probabilities: Tensor, inner: Tensor) -> Tensor:
    """[3, n]: summed probabilities, summed outcomes and counts of the bins. A value on an edge is in the lower bin."""
    import torch

    values = torch.stack([probabilities.double(), outcomes.double(), torch.ones_like(probabilities).double()])
    bins = torch.bucketize(values[0].contiguous(), inner)
    return values.new_zeros(3, len(inner) + 1).index_add(1, bins, values)


def errors(bins: Sequence[Sequence[float]]) -> dict[str, float]:
    """From (summed probabilities, summed outcomes, count) of each bin. `ECE = sum of |p - y| / n`, ACE and MCE the mean
    and the maximum of `|p - y| / n_bin` over bins that have any (Cheng et al. 2023). All 0 without values."""
    gaps = [(abs(p - y), n) for p, y, n in bins if n]
    if not gaps:
        return {"ECE": 0.0, "ACE": 0.0, "MCE": 0.0}
    means = [gap / n for gap, n in gaps]
    total = sum(n for _, n in gaps)
    return {"ECE": sum(gap for gap, _ in gaps) / total, "ACE": sum(means) / len(means), "MCE": max(means)}


def as_sums(bins: Tensor) -> Sums:
    """[3, n] of `bin_sums` as metrics that can be added over batches and ranks."""
    n, counts = bins.shape[1], bins[2]
    return {
        f"{_PREFIX}/{n}/{i}/{kind}": (bins[row, i], counts[i])
        for i in range(n)
        for row, kind in enumerate(("probability", "outcome"))
    }


def as_bins(sums: Mapping[str, tuple[float, float]]) -> dict[int, list[tuple[float, float, float]]]:
    """What `as_sums` made, added up: number of bins to (summed probabilities, summed outcomes, count) of each."""
    found: dict[int, dict[int, dict[str, float]]] = {}
    for name, (total, count) in sums.items():
        prefix, *rest = name.split("/")
        if prefix == _PREFIX:
            n, i, kind = rest
            found.setdefault(int(n), {}).setdefault(int(i), {"count": count})[kind] = total
    return {
        n: [(one["probability"], one["outcome"], one["count"]) for _, one in sorted(bins.items())]
        for n, bins in sorted(found.items())
    }
