"""Kahneman-Tversky optimisation: single answers marked good or bad, no pairs."""

from __future__ import annotations

from swiftlike.core.declare import arg, section
from swiftlike.losses.base import LabelledLogps, Loss, LossCard
from swiftlike.losses.terms import type_problems, widened


@section
class KtoArgs:
    """Flags of --rlhf_type kto."""

    beta: float = arg(0.1, "strength of the pull to the reference", ge=0)
    desirable_weight: float = arg(1.0, "factor of the loss of good answers", ge=0)
    undesirable_weight: float = arg(1.0, "factor of the loss of bad answers", ge=0)
    loss_type: list[str] = arg(["kto"], "kto")

    def problems(self) -> list[str]:
        """Values that do not go together."""
        return type_problems(self.loss_type, ("kto",), single=True)


def kto(record: LabelledLogps, args: KtoArgs) -> Loss:
    """Good: `w_D (1 - s(b (z - k)))`; bad: `w_U (1 - s(b (k - z)))`. Ethayarajh et al. 2024.

    `z = S_policy - S_reference`; `k` is `record.kl` clamped at 0 from below, without gradient.
    """
    import torch

    record = widened(record)
    drift, kl = record.policy - record.reference, record.kl.detach().clamp(min=0)
    x = args.beta * (drift - kl)
    good, bad = args.desirable_weight * torch.sigmoid(-x), args.undesirable_weight * torch.sigmoid(x)
    rows = torch.where(record.desirable.bool(), good, bad)
    return Loss(rows, args.beta * drift.detach(), metrics={"kl": kl})


def words(args: KtoArgs) -> str:
    """`KTO(beta 0.1, weights 1.0 good, 1.0 bad)`."""
    return f"KTO(beta {args.beta}, weights {args.desirable_weight} good, {args.undesirable_weight} bad)"


def weight_advice(desirable: int, undesirable: int, args: KtoArgs) -> str | None:
    """A warning when `n_D w_D / (n_U w_U)` of the row counts is outside the paper's [1, 1.33]; None when it is inside.

    This is the same as "w_D in [1, 1.33] n_U w_U / n_D, or w_U in [1/1.33, 1] n_D w_D / n_U".
    """
    good, bad = desirable * args.desirable_weight, undesirable * args.undesirable_weight
    if not good or not bad or 0.995 <= good / bad <= 1.335:  # weights are given with two decimals
        return None
    least, most = bad / desirable, good / undesirable
    return (
        f"{desirable} good rows x {args.desirable_weight} against {undesirable} bad rows x {args.undesirable_weight}: "
        f"KTO is better balanced with --desirable_weight from {least:.2f} to {1.33 * least:.2f}, "
        f"or --undesirable_weight from {most / 1.33:.2f} to {most:.2f}"
    )


CARD = LossCard(
    name="kto",
    fn=kto,
    args=KtoArgs,
    data="labelled",
    paper="https://arxiv.org/abs/2402.01306",
    summary="Kahneman-Tversky optimisation: answers marked good or bad, no pairs",
    words=words,
    record="labelled",
    advice=lambda rows, args, together: weight_advice(
        sum(row.label for row in rows), sum(not row.label for row in rows), args
    ),
    needs_reference=lambda args: True,
    formula="good: w_D (1 - s(beta (d - k))), bad: w_U (1 - s(beta (k - d))), k the mean of d on other prompts' "
    "answers, not below 0",
    when="You have single answers with thumbs up or down instead of pairs.",
    defaults="beta 0.1 and weights of 1 are the paper's and TRL's; a warning names better weights when good and "
    "bad rows are far from balanced.",
    differs=(
        "ms-swift 2.5.2 rotates the labels with the neighbours' answers that estimate k; here each row keeps "
        "its own label.",
        "The neighbour comes from the shuffled order of the epoch and not from the micro-batch, so a batch of "
        "one works and the number of processes changes nothing.",
    ),
)
