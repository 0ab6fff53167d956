"""Simple preference optimisation: length-averaged log-probabilities, a target margin, no reference."""

from __future__ import annotations

from swiftlike.core.declare import arg, section
from swiftlike.losses.base import GroupLogps, Loss, LossCard
from swiftlike.losses.metrics import pair_logps
from swiftlike.losses.terms import chosen_nll, pair_difference, plus_nll, smoothed, smoothing_words, widened


@section
class SimpoArgs:
    """Flags of --rlhf_type simpo."""

    beta: float = arg(2.0, "scale of the length-averaged log-probabilities", ge=0)
    simpo_gamma: float = arg(1.0, "target margin, not multiplied by beta")
    cpo_alpha: float = arg(
        1.0, "factor of the NLL of the chosen answers: 1.0 is the CPO-SimPO mix, the paper's SimPO is 0", ge=0
    )
    label_smoothing: float = arg(0.0, "probability that a label is flipped", ge=0, le=0.5)


def simpo(record: GroupLogps, args: SimpoArgs) -> Loss:
    """`mean_i[-log s(b (A(w) - A(l)) - gamma)] + cpo_alpha NLL(w)`, `A(y) = S(y)/n(y)`. Meng et al. 2024 eq. 6.

    Label smoothing as in DPO.
    """
    record = widened(record)
    means, nll = record.mean, chosen_nll(record, args.cpo_alpha)
    rows = smoothed(args.beta * pair_difference(means) - args.simpo_gamma, args.label_smoothing)
    return Loss(rows, args.beta * means.detach(), nll=nll, metrics=pair_logps(means))


def words(args: SimpoArgs) -> str:
    """`SimPO(beta 2.0, gamma 1.0)`, and that an NLL term makes it the CPO-SimPO mix."""
    loss = f"SimPO(beta {args.beta}, gamma {args.simpo_gamma}{smoothing_words(args.label_smoothing)})"
    mix = ": the CPO-SimPO mix; the paper's SimPO is --cpo_alpha 0" if args.cpo_alpha else ""
    return loss + plus_nll(args.cpo_alpha) + mix


CARD = LossCard(
    name="simpo",
    fn=simpo,
    args=SimpoArgs,
    data="pair",
    paper="https://arxiv.org/abs/2405.14734",
    summary="simple preference optimisation: length-averaged reward with a target margin, no reference",
    words=words,
    formula="mean of -log s(beta (A(w) - A(l)) - simpo_gamma) + cpo_alpha NLL(w)",
    when="You have pairs, no reference, and fear that answers grow longer: the reward is an average over "
    "tokens, which is also what generation ranks by.",
    defaults="beta 2.0 and simpo_gamma 1.0 are ms-swift's; cpo_alpha 1.0 as well, which makes it the CPO-SimPO mix "
    "(the paper: --cpo_alpha 0).",
    differs=(
        "The paper reports the ratio gamma / beta; simpo_gamma is outside the product with beta, as in the "
        "code of the paper, TRL and ms-swift.",
    ),
)
