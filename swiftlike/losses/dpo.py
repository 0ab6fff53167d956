"""Direct preference optimisation and the pair losses that read the same gap between policy and reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from swiftlike.core.declare import arg, section
from swiftlike.losses.base import GroupLogps, Loss, LossCard, log_sigmoid
from swiftlike.losses.terms import (
    chosen_nll,
    pair_difference,
    plus_nll,
    smoothed,
    smoothing_problems,
    smoothing_words,
    type_problems,
    widened,
)

if TYPE_CHECKING:
    from torch import Tensor

SMOOTHED = ("sigmoid", "robust", "exo_pair")


@section
class DpoArgs:
    """Flags of --rlhf_type dpo."""

    beta: float = arg(0.1, "strength of the pull to the reference", ge=0)
    label_smoothing: float = arg(0.0, "probability that a label is flipped (conservative DPO)", ge=0, le=0.5)
    loss_type: list[str] = arg(
        ["sigmoid"], "sigmoid, ipo (length-normalised), hinge, robust, sigmoid_norm, exo_pair, sft; several are mixed"
    )
    loss_weights: list[float] = arg([], "one factor for each loss_type; default: 1 each")
    rpo_alpha: float | None = arg(1.0, "factor of the NLL of the chosen answers; 0 or none turns it off", ge=0)
    reference_free: bool = arg(False, "drop the reference from the loss (rewards still use it)")

    @property
    def mix(self) -> list[tuple[str, float]]:
        """(loss type, its factor). ValueError when there are not as many of both."""
        return list(zip(self.loss_type, self.loss_weights or [1.0] * len(self.loss_type), strict=True))

    @property
    def nll_weight(self) -> float:
        """The factor of NLL(chosen): rpo_alpha and every `sft` of the mix."""
        return sum((weight for kind, weight in self.mix if kind == "sft"), start=self.rpo_alpha or 0.0)

    def problems(self) -> list[str]:
        """Values that do not go together."""
        found = type_problems(self.loss_type, (*TERMS, "sft"))
        found += smoothing_problems(self.label_smoothing, self.loss_type, SMOOTHED)
        if self.loss_weights and len(self.loss_weights) != len(self.loss_type):
            found.append(f"--loss_weights: {len(self.loss_weights)} given for {len(self.loss_type)} loss types")
        if "robust" in self.loss_type and self.label_smoothing >= 0.5:
            found.append("--loss_type robust divides by 1 - 2 x label_smoothing: give less than 0.5")
        if "exo_pair" in self.loss_type and not self.label_smoothing:
            found.append("--loss_type exo_pair is infinite at --label_smoothing 0: give a small value such as 0.001")
        if "ipo" in self.loss_type and not self.beta:
            found.append("--loss_type ipo divides by beta: give more than 0")
        return found


def sigmoid(gap: Tensor, mean_gap: Tensor, args: DpoArgs) -> Tensor:
    """`-(1-e) log s(b g) - e log s(-b g)`. Rafailov et al. 2023 eq. 7; Mitchell 2023 for e > 0."""
    return smoothed(args.beta * gap, args.label_smoothing)


def ipo(gap: Tensor, mean_gap: Tensor, args: DpoArgs) -> Tensor:
    """`(g' - 1/(2b))^2` with `g' = d(w)/n(w) - d(l)/n(l)`. Azar et al. 2023 eq. 17, normalised by length."""
    return (mean_gap - 1 / (2 * args.beta)) ** 2


def hinge(gap: Tensor, mean_gap: Tensor, args: DpoArgs) -> Tensor:
    """`max(0, 1 - b g)`. Zhao et al. 2023 (SLiC), on DPO's gap."""
    return (1 - args.beta * gap).relu()


def robust(gap: Tensor, mean_gap: Tensor, args: DpoArgs) -> Tensor:
    """`(-(1-e) log s(b g) + e log s(-b g)) / (1 - 2e)`. Chowdhury et al. 2024: unbiased under flips."""
    epsilon, x = args.label_smoothing, args.beta * gap
    return (epsilon * log_sigmoid(-x) - (1 - epsilon) * log_sigmoid(x)) / (1 - 2 * epsilon)


def sigmoid_norm(gap: Tensor, mean_gap: Tensor, args: DpoArgs) -> Tensor:
    """`-log s(b g')` with ipo's length-normalised `g'`."""
    return -log_sigmoid(args.beta * mean_gap)


def exo_pair(gap: Tensor, mean_gap: Tensor, args: DpoArgs) -> Tensor:
    """`q (log q - log(1-e)) + (1-q) (log(1-q) - log e)`, `q = s(b g)`. Ji et al. 2024 eq. 16: reverse KL, K = 2."""
    import torch

    epsilon = torch.tensor(args.label_smoothing, dtype=torch.float32)  # the reference's precision for the two logs
    won, lost = log_sigmoid(args.beta * gap), log_sigmoid(-args.beta * gap)
    return won.exp() * (won - torch.log1p(-epsilon)) + lost.exp() * (lost - torch.log(epsilon))


TERMS: dict[str, Callable[[Tensor, Tensor, DpoArgs], Tensor]] = {
    term.__name__: term for term in (sigmoid, ipo, hinge, robust, sigmoid_norm, exo_pair)
}


def dpo(record: GroupLogps, args: DpoArgs) -> Loss:
    """`mean_i(sum_k weight_k term_k(g_i)) + (rpo_alpha + weight_sft) NLL(w)`, gap `g = d(w) - d(l)`.

    `d(y) = S_policy(y) - S_reference(y)`; reference_free drops the second part here, but not in the rewards `b d(y)`.
    """
    record = widened(record)
    drift = record.policy if args.reference_free else record.ratios
    gap, mean_gap = pair_difference(drift), pair_difference(drift / record.tokens)
    terms = [weight * TERMS[kind](gap, mean_gap, args) for kind, weight in args.mix if kind != "sft"]
    rows = sum(terms, start=gap.new_zeros(gap.shape))
    return Loss(rows, args.beta * record.ratios.detach(), nll=chosen_nll(record, args.nll_weight))


def words(args: DpoArgs) -> str:
    """`DPO(beta 0.1) + 1.0 x NLL(chosen)`."""
    setting = f"(beta {args.beta}{smoothing_words(args.label_smoothing)}{', no reference' * args.reference_free})"
    terms = [
        f"{weight} x " * (weight != 1) + "DPO" + f" {kind}" * (kind != "sigmoid") + setting
        for kind, weight in args.mix
        if kind != "sft"
    ]
    return (" + ".join(terms) + plus_nll(args.nll_weight)).removeprefix(" + ")


CARD = LossCard(
    name="dpo",
    fn=dpo,
    args=DpoArgs,
    data="pair",
    paper="https://arxiv.org/abs/2305.18290",
    summary="direct preference optimisation: a classifier on the gap between policy and reference",
    words=words,
    needs_reference=lambda args: True,
    formula="mean of -log s(beta (d(w) - d(l))) + rpo_alpha NLL(w)",
    when="You have pairs and a model that already answers in the right form. The usual first choice: it stays "
    "near its reference and has one number to tune.",
    defaults="beta 0.1 is the paper's, rpo_alpha 1.0 that of ms-swift v2; the paper has no NLL term (--rpo_alpha 0).",
    differs=(
        "TRL 0.9.3 and AIPO multiply the preference term by rpo_alpha; here, as in ms-swift, it is the factor "
        "of the NLL.",
        "TRL 1.16 ignores label smoothing with the sigmoid loss; here it is honoured.",
        "ms-swift replaces a label smoothing of 0 by 0.001 for exo_pair without a word; here 0 is refused, "
        "because the loss is infinite there.",
    ),
)
