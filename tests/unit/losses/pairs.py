"""Golden cases of pairs: their inputs as records, and every output that a pair objective can be asked for."""

from __future__ import annotations

import dataclasses as dc
from typing import Any

import torch

from swiftlike.losses import LOSSES
from swiftlike.losses.base import GroupLogps, LabelledLogps, Loss
from swiftlike.losses.metrics import preference_metrics, with_margins

from .golden import Case, numbers


def args_of(name: str, params: dict[str, Any], **fixed: Any) -> Any:
    """The objective's arguments from a case's parameters, which may say None for "not used" and have more names."""
    cls = LOSSES.get(name).args
    given = {field.name: params[field.name] for field in dc.fields(cls) if params.get(field.name) is not None}
    if isinstance(given.get("loss_type"), str):
        given["loss_type"] = [given["loss_type"]]
    return cls(**given | fixed)


def pair_record(inputs: dict[str, Any], policy: str = "policy_{}_logps", **more: Any) -> GroupLogps:
    """[B, 2] from the chosen and rejected lists of a case; answers of unknown length count as one token."""
    values = torch.stack([numbers(inputs[policy.format(side)]) for side in ("chosen", "rejected")], dim=1)
    tokens = torch.ones_like(values)
    if "chosen_lengths" in inputs:
        tokens = torch.stack([numbers(inputs[f"{side}_lengths"]) for side in ("chosen", "rejected")], dim=1)
    if "ref_chosen_logps" in inputs:
        more["reference"] = torch.stack([numbers(inputs[f"ref_{side}_logps"]) for side in ("chosen", "rejected")], 1)
    return GroupLogps(values.requires_grad_(), tokens, **more)


def pair_outputs(record: GroupLogps, loss: Loss) -> Case:
    """Every output that a pair objective can be asked for, under the names of the golden files."""
    (slope,) = torch.autograd.grad(loss.value, record.policy, retain_graph=True)
    measured = {"nll_loss": 0.0} | means_of(record, loss)
    outputs = {"loss": loss.value, "losses": loss.rows, "nll_loss": measured["nll_loss"], "metrics": measured}
    for column, side in enumerate(("chosen", "rejected")):
        outputs[f"{side}_rewards"] = loss.rewards[:, column]
        # tokens enter a sum with factor 1: both derivatives are the same number
        outputs[f"grad_{side}_logps"] = outputs[f"grad_{side}_token_logps"] = slope[:, column]
    return outputs


def means_of(record: GroupLogps | LabelledLogps, loss: Loss) -> dict[str, float]:
    """The metrics as a trainer logs them for a single batch; a class without rows has none."""
    sums = preference_metrics(record, loss)
    return with_margins({name: (total / count).item() for name, (total, count) in sums.items() if count})
