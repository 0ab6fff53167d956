"""What several objectives are made of: the smoothed logistic loss, the NLL of the chosen answers, checks of flags."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, TypeVar

from swiftlike.core.errors import suggestion
from swiftlike.losses.base import GroupLogps, GroupRewards, LabelledLogps, Nll, log_sigmoid

if TYPE_CHECKING:
    from torch import Tensor

Record = TypeVar("Record", GroupLogps, LabelledLogps, GroupRewards)


def widened(record: Record) -> Record:
    """The record with half-precision tensors as float32: differences of long sums are lost in fewer bits."""
    import torch

    values = {field.name: getattr(record, field.name) for field in dc.fields(record)}
    half = (torch.float16, torch.bfloat16)
    return dc.replace(record, **{k: v.float() for k, v in values.items() if v is not None and v.dtype in half})


def smoothed(x: Tensor, epsilon: float) -> Tensor:
    """`-(1-e) log s(x) - e log s(-x)`: the logistic loss when a share `epsilon` of the labels is flipped."""
    if not epsilon:
        return -log_sigmoid(x)  # 0 x infinity would be NaN
    return -(1 - epsilon) * log_sigmoid(x) - epsilon * log_sigmoid(-x)


def pair_difference(values: Tensor) -> Tensor:
    """[B, K] to [B]: chosen minus rejected, the first two columns."""
    return values[:, 0] - values[:, 1]


def chosen_nll(record: GroupLogps, weight: float | None) -> Nll | None:
    """Token-averaged NLL of the chosen completions times `weight`; None when the weight is 0 or none."""
    return Nll(-record.policy[:, 0].sum(), record.tokens[:, 0].sum(), weight) if weight else None


def plus_nll(weight: float | None) -> str:
    """` + 1.0 x NLL(chosen)`, or nothing when the weight is 0 or none."""
    return f" + {round(weight, 6)} x NLL(chosen)" if weight else ""


def smoothing_words(epsilon: float) -> str:
    """`, label smoothing 0.1`, or nothing at 0."""
    return f", label smoothing {epsilon}" if epsilon else ""


def type_problems(given: Sequence[str], known: Collection[str], *, single: bool = False) -> list[str]:
    """What is wrong with the values of --loss_type: unknown ones, none at all, or several where one is allowed."""
    problems = [
        f"--loss_type {name}: not one of {', '.join(known)}{suggestion(name, known)}"
        for name in given
        if name not in known
    ]
    if not given or (single and len(given) > 1):
        problems.append(f"--loss_type: give {'exactly one' if single else 'at least one'} of {', '.join(known)}")
    return problems


def smoothing_problems(epsilon: float, given: Collection[str], readers: Collection[str]) -> list[str]:
    """Label smoothing that no given loss type would read is refused, not ignored."""
    if not epsilon or not set(readers).isdisjoint(given):
        return []
    return [f"--label_smoothing {epsilon}: loss_type {' '.join(given)} does not use it (only {', '.join(readers)})"]
