"""Contrastive preference optimisation: DPO without a reference, held in place by an NLL term."""

from __future__ import annotations

from swiftlike.core.declare import arg, section
from swiftlike.losses.base import GroupLogps, Loss, LossCard
from swiftlike.losses.metrics import pair_logps
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

TYPES = ("sigmoid", "hinge", "ipo")


@section
class CpoArgs:
    """Flags of --rlhf_type cpo."""

    beta: float = arg(0.1, "how strongly the margin of the summed log-probabilities counts", ge=0)
    cpo_alpha: float = arg(1.0, "factor of the NLL of the chosen answers", ge=0)
    label_smoothing: float = arg(0.0, "probability that a label is flipped", ge=0, le=0.5)
    loss_type: list[str] = arg(["sigmoid"], "sigmoid, hinge or ipo (length-averaged); for simpo use --rlhf_type simpo")

    def problems(self) -> list[str]:
        """Values that do not go together."""
        if self.loss_type == ["simpo"]:
            return ["--loss_type simpo: use --rlhf_type simpo (its beta is 2.0, its simpo_gamma 1.0)"]
        found = type_problems(self.loss_type, TYPES, single=True)
        found += smoothing_problems(self.label_smoothing, self.loss_type, ("sigmoid",))
        if "ipo" in self.loss_type and not self.beta:
            found.append("--loss_type ipo divides by beta: give more than 0")
        return found


def cpo(record: GroupLogps, args: CpoArgs) -> Loss:
    """`mean_i[-(1-e) log s(b D) - e log s(-b D)] + cpo_alpha NLL(w)`, `D = S(w) - S(l)`. Xu et al. 2024.

    `hinge` is `max(0, 1 - b D)`; `ipo` is `(D' - 1/(2b))^2` on length-averages, which are then the rewards too.
    """
    (kind,) = args.loss_type
    record = widened(record)
    logps = record.mean if kind == "ipo" else record.policy
    margin = pair_difference(logps)
    if kind == "hinge":
        rows = (1 - args.beta * margin).relu()
    elif kind == "ipo":
        rows = (margin - 1 / (2 * args.beta)) ** 2
    else:
        rows = smoothed(args.beta * margin, args.label_smoothing)
    nll = chosen_nll(record, args.cpo_alpha)
    return Loss(rows, args.beta * logps.detach(), nll=nll, metrics=pair_logps(logps))


def words(args: CpoArgs) -> str:
    """`CPO(beta 0.1) + 1.0 x NLL(chosen)`."""
    kind = "" if args.loss_type == ["sigmoid"] else f" {args.loss_type[0]}"
    return f"CPO{kind}(beta {args.beta}{smoothing_words(args.label_smoothing)}){plus_nll(args.cpo_alpha)}"


CARD = LossCard(
    name="cpo",
    fn=cpo,
    args=CpoArgs,
    data="pair",
    paper="https://arxiv.org/abs/2401.08417",
    summary="contrastive preference optimisation: no reference, margin of sums plus NLL",
    words=words,
    formula="mean of -log s(beta (S(w) - S(l))) + cpo_alpha NLL(w)",
    when="You have pairs and no memory or time for a reference, and answers of similar length (translation, "
    "where it comes from).",
    defaults="beta 0.1 and cpo_alpha 1.0 are those of TRL and ms-swift.",
)
