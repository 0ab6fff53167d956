"""Reward models: TRL's pairs, APO's lists, and APO's calibration."""

from __future__ import annotations

import torch

from swiftlike.losses import LOSSES
from swiftlike.losses.apo_rm import ApoRmArgs, measure, summarise
from swiftlike.losses.base import GroupRewards, Loss
from swiftlike.losses.calibration import calibration_error
from swiftlike.losses.metrics import preference_metrics
from swiftlike.losses.rm import RmArgs

from .golden import Adapter, Case, numbers


def means(record: GroupRewards, loss: Loss) -> Case:
    """The metrics of one batch."""
    sums = preference_metrics(record, loss)  # type: ignore[arg-type]
    return {name: (total / count).item() for name, (total, count) in sums.items() if count}


def run_rm(case: Case) -> Case:
    inputs = case["inputs"]
    rewards = torch.stack([numbers(inputs[f"rewards_{side}"]) for side in ("chosen", "rejected")], 1).requires_grad_()
    margin = numbers(inputs["margin"]) if "margin" in inputs else None
    record = GroupRewards(rewards, torch.ones_like(rewards).bool(), margin=margin)
    loss = LOSSES.get("rm").fn(record, RmArgs(center_rewards_coefficient=case["params"]["center_rewards_coefficient"]))
    (slope,) = torch.autograd.grad(loss.value, rewards)
    return {
        "loss": loss.value,
        "grad_chosen": slope[:, 0],
        "grad_rejected": slope[:, 1],
        "metrics": means(record, loss),
    }


def lists(case: Case, **more: torch.Tensor) -> GroupRewards:
    """Logits and scores of a case; scores below 0 stand for answers that are not there."""
    inputs = case["inputs"]
    scores, logits = numbers(inputs["scores"]), numbers(inputs["logits"])
    return GroupRewards(logits.requires_grad_(), scores >= 0, scores=scores, **more)


def with_slope(record: GroupRewards, args: ApoRmArgs) -> Case:
    loss = LOSSES.get("apo_rm").fn(record, args)
    (slope,) = torch.autograd.grad(loss.value, record.rewards)
    return {"loss": loss.value, "grad_logits": slope}


def run_apo_rm(case: Case) -> Case:
    """The game, or any other task, which does not look at the items' kinds."""
    params = {
        name: case["params"][name] for name in ("apo_loss_coeff", "apo_sample_num", "rm_kl_coeff", "apo_loss_type")
    }
    kind = "apo" if case["params"]["task_type"] == "apo" else "rm"
    record = lists(case, adversarial=numbers(case["inputs"]["apo_data_mask"]).bool())
    return with_slope(record, ApoRmArgs(**params, task_type=kind))


def run_apo_rm_pairs(case: Case) -> Case:
    """`L(c, kind)` with a factor of each item. Those of the game are one factor for each of two kinds, so an item's own
    factor is had by calling it adversarial in a batch where all pairs count, and adding up."""
    total: torch.Tensor | float = 0.0
    record = lists(case)
    coefficients = case["inputs"].get("coeffs")
    coefficients = [1.0] * len(record.rewards) if coefficients is None else numbers(coefficients).flatten().tolist()
    for i, factor in enumerate(coefficients):
        only = torch.arange(len(coefficients)) == i
        args = ApoRmArgs(
            apo_loss_coeff=factor, apo_sample_num=1, rm_kl_coeff=0.0, apo_loss_type=case["params"]["loss_type"]
        )
        one = GroupRewards(record.rewards, record.present, scores=record.scores, adversarial=only)
        total = total + LOSSES.get("apo_rm").fn(one, args).value
    assert isinstance(total, torch.Tensor)
    (slope,) = torch.autograd.grad(total, record.rewards)
    return {"loss": total, "grad_logits": slope}


def run_apo_metrics(case: Case) -> Case:
    """The original's average score counts answers that are not there as well. Ours is compared with it where none is
    missing, else with the average over real answers."""
    record = lists(case)
    args = ApoRmArgs(calibration_bins=case["params"]["calibration_bins"])
    found = means(record, LOSSES.get("apo_rm").fn(record, args))
    sums = {name: (total.item(), count.item()) for name, (total, count) in measure(record, args).items()}
    logits = record.rewards.detach()
    torch.testing.assert_close(found["avg_score"], logits[record.present].mean().item(), rtol=1e-12, atol=1e-12)
    whole = bool(record.present.all())
    return {
        "Preference Acc": found.get("accuracy", 0.0),
        "Avg Score": found["avg_score"] if whole else logits.mean(),
        **summarise(sums, args),
    }


def run_calibration(case: Case) -> Case:
    inputs, params = case["inputs"], case["params"]
    return calibration_error(inputs["y_true"], inputs["y_prob"], params["n_bins"], params["strategy"])


ADAPTERS: dict[str, Adapter] = {
    "rm": run_rm,
    "apo_rm": run_apo_rm,
    "apo_rm_pairs": run_apo_rm_pairs,
    "apo_metrics": run_apo_metrics,
    "calibration": run_calibration,
}
