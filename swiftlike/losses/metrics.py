"""Metrics of one batch as (sum, count), so that adding over micro-batches and ranks before dividing is exact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from swiftlike.losses.base import GroupLogps, GroupRewards, LabelledLogps, Loss

if TYPE_CHECKING:
    from torch import Tensor

    Sums = dict[str, tuple[Tensor, Tensor]]


EXTREMES = ("min_", "max_")  # metrics of these names are the lowest and the highest value, not the mean


def preference_metrics(record: GroupLogps | LabelledLogps | GroupRewards, loss: Loss) -> Sums:
    """Name to (sum, count), two detached scalars each. The names depend on the objective alone, not on the batch.

    `rewards/*` come from `loss.rewards`; `logps/*` are sums over tokens unless the objective reports its own under
    that name; `nll_loss` is there when the loss has the term. Labelled rows count only in their own class, and
    `rewards/margins` of them is a difference of two averages: `with_margins` adds it. One completion has no preference,
    and what a reward model reports is its objective's to say.
    """
    sums = {}
    if isinstance(record, LabelledLogps):
        sums = _by_class(record, loss)
    elif isinstance(record, GroupLogps):
        sums = _by_column(record, loss)
    sums |= {
        name: _extreme(name, value) if name.startswith(EXTREMES) else _total(value)
        for name, value in loss.metrics.items()
    }
    if loss.nll is not None:
        sums["nll_loss"] = loss.nll.total.detach(), loss.nll.tokens
    return sums


def with_margins(means: Mapping[str, float]) -> dict[str, float]:
    """The averaged metrics, `rewards/margins` added where it is not there yet and both classes are."""
    if not {"rewards/chosen", "rewards/rejected"} <= means.keys():
        return dict(means)
    return {"rewards/margins": means["rewards/chosen"] - means["rewards/rejected"], **means}


def pair_logps(logps: Tensor) -> dict[str, Tensor]:
    """[B, K] log-probabilities under the names of the metrics: for objectives that read averages, not sums."""
    return {"logps/chosen": logps[:, 0].detach(), "logps/rejected": logps[:, 1].detach()}


def _by_column(record: GroupLogps, loss: Loss) -> Sums:
    if record.policy.shape[1] < 2:
        return {}
    chosen, rejected = loss.rewards[:, 0], loss.rewards[:, 1]
    values = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": (chosen > rejected).to(chosen.dtype),
        **pair_logps(record.policy),
    }
    return {name: _total(value) for name, value in values.items()}


def _by_class(record: LabelledLogps, loss: Loss) -> Sums:
    good = record.desirable.bool()
    return {
        f"{kind}/{name}": (values[rows].detach().sum(), rows.sum())
        for kind, values in (("rewards", loss.rewards), ("logps", record.policy))
        for name, rows in (("chosen", good), ("rejected", ~good))
    }


def _extreme(name: str, value: Tensor) -> tuple[Tensor, Tensor]:
    if not value.numel():
        return value.new_zeros(()), value.new_zeros(())
    return (value.min() if name.startswith("min_") else value.max()).detach(), value.new_ones(())


def _total(value: Tensor) -> tuple[Tensor, Tensor]:
    return value.detach().sum(), value.new_full((), value.numel())
