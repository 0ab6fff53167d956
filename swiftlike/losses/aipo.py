"""The objective of AIPO: DPO whose reference margin is enlarged, plus the NLL of the chosen answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swiftlike.core.declare import arg, section
from swiftlike.losses.base import GroupLogps, Loss, LossCard
from swiftlike.losses.terms import pair_difference, smoothed, smoothing_words, type_problems, widened

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("aipo", "alpha_dpo", "nll_loss", "simpo", "sigmoid")


@section
class AipoArgs:
    """Flags of --rlhf_type aipo."""

    beta: float = arg(0.1, "strength of the pull to the reference", ge=0)
    aipo_alpha: float = arg(
        0.05, "enlarges the reference margin by 1 + alpha; with loss_type nll_loss the factor of the NLL", ge=0
    )
    aipo_lambda: float = arg(0.2, "loss_type aipo: factor of the length-averaged NLL of the chosen answer", ge=0)
    aipo_gamma: float = arg(0.0, "target margin, multiplied by beta (not in simpo)", ge=0)
    label_smoothing: float = arg(0.0, "probability that a label is flipped", ge=0, le=0.5)
    loss_type: list[str] = arg(["aipo"], "aipo, alpha_dpo (no NLL), nll_loss (no alpha), simpo or sigmoid (DPO)")

    @property
    def kind(self) -> str:
        """The one loss type."""
        return self.loss_type[0]

    @property
    def alpha(self) -> float:
        """What the reference margin is enlarged by."""
        return self.aipo_alpha if self.kind in ("aipo", "alpha_dpo") else 0.0

    @property
    def nll_weight(self) -> float:
        """The factor of the chosen answer's length-averaged NLL."""
        return {"aipo": self.aipo_lambda, "nll_loss": self.aipo_alpha}.get(self.kind, 0.0)

    @property
    def shift(self) -> float:
        """What the target margin takes off the argument of the logistic loss."""
        return self.aipo_gamma if self.kind == "simpo" else self.beta * self.aipo_gamma

    def problems(self) -> list[str]:
        """Values that do not go together."""
        found = type_problems(self.loss_type, KINDS, single=True)
        if found:
            return found
        readers = {"aipo_alpha": ("aipo", "alpha_dpo", "nll_loss"), "aipo_lambda": ("aipo",)}
        usual = AipoArgs()
        return [
            f"--{name}: loss_type {self.kind} does not use it (only {', '.join(kinds)})"
            for name, kinds in readers.items()
            if self.kind not in kinds and getattr(self, name) != getattr(usual, name)
        ]


def aipo(record: GroupLogps, args: AipoArgs) -> Loss:
    """`-(1-e) log s(h) - e log s(-h) - lambda A(w)`, `h = b (S(w) - S(l) - (1+alpha) (S_ref(w) - S_ref(l)) - gamma)`.

    Shen et al. 2024. S sums, A averages over the answer's tokens. The NLL is averaged over each row's own tokens
    first, not over the tokens of the batch. simpo: `h = b (A(w) - A(l)) - gamma`. Rewards are DPO's in every type.
    """
    record = widened(record)
    rewards = args.beta * record.ratios.detach()
    assert record.reference is not None
    policy, reference = pair_difference(record.policy), pair_difference(record.reference)
    if args.kind == "simpo":
        h = args.beta * pair_difference(record.mean) - args.shift
    else:
        h = args.beta * (policy - (1 + args.alpha) * reference) - args.shift
    nll = -record.mean[:, 0]
    rows = smoothed(h, args.label_smoothing)
    if args.nll_weight:
        rows = rows + args.nll_weight * nll
    metrics: dict[str, Tensor] = {
        "regularization_term": rows.new_full((), -args.shift),
        "length/chosen": record.tokens[:, 0].to(rows.dtype),
        "length/rejected": record.tokens[:, 1].to(rows.dtype),
        "margin/policy": args.beta * policy.detach(),
        "margin/reference": args.beta * reference,
    }
    if args.nll_weight:
        metrics["nll_loss"] = nll.detach()
    return Loss(rows, rewards, metrics=metrics)


def words(args: AipoArgs) -> str:
    """`AIPO(beta 0.1, alpha 0.05) + 0.2 x NLL(chosen, per row)`."""
    facts = [f"beta {args.beta}"]
    facts += [f"alpha {args.alpha}"] if args.alpha else []
    facts += [f"gamma {args.aipo_gamma}"] if args.aipo_gamma else []
    name = "AIPO" if args.kind == "aipo" else f"AIPO {args.kind}"
    nll = f" + {args.nll_weight} x NLL(chosen, averaged per row)" if args.nll_weight else ""
    return f"{name}({', '.join(facts)}{smoothing_words(args.label_smoothing)}){nll}"


CARD = LossCard(
    name="aipo",
    fn=aipo,
    args=AipoArgs,
    data="pair",
    paper="https://arxiv.org/abs/2409.08845",
    summary="AIPO: DPO with an enlarged reference margin and an NLL term, made for iterative training",
    words=words,
    needs_reference=lambda args: True,
    formula="-(1-e) log s(h) - e log s(-h) - lambda A(w), h = beta (S(w) - S(l) - (1 + alpha) (S_ref(w) - "
    "S_ref(l)) - gamma)",
    when="You train in rounds on the model's own answers: the enlarged reference margin and the NLL are there "
    "against answers that grow longer from round to round.",
    defaults="beta 0.1 is the original's. It names no alpha and no lambda: 0.05 and 0.2 are ours.",
    differs=(
        "The published recipes set neither the loss type nor alpha and lambda, so as they stand they train "
        "plain DPO; here aipo is a type of its own with values.",
        "Its rpo_alpha multiplies the preference term; --rpo_alpha is refused here, --aipo_lambda is the NLL's factor.",
        "The NLL is averaged within each row first, unlike DPO's and SimPO's, as in the original.",
    ),
)
