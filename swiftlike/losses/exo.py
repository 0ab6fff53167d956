"""Efficient exact optimisation: bring the policy's distribution over K answers to the one that rewards imply."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from swiftlike.core.declare import arg, section
from swiftlike.losses.base import GroupLogps, Loss, LossCard
from swiftlike.losses.terms import type_problems, widened

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("exo-pref", "exo-rw", "dpo-pref", "dpo-rw")
FLOOR = math.exp(-10)  # the smoothing that the original has built in


@section
class ExoArgs:
    """Flags of --rlhf_type exo."""

    loss_type: list[str] = arg(["exo-pref"], "exo-pref or dpo-pref (best answer), exo-rw or dpo-rw (rewards)")
    num_contrastive: int = arg(2, "answers that are compared with each other; divides those of every prompt", ge=2)
    beta_pi: float = arg(1.0, "the policy's side: q = softmax(beta_pi (log policy - log reference))", ge=0)
    beta_r: float = arg(1.0, "the rewards' side: p = softmax(rewards / beta_r)", ge=0)
    temperature: float = arg(
        1.0, "divides the logits of policy and reference: what the answers were sampled with", ge=0, aliases=("temp",)
    )
    exo_label_smoothing: float = arg(FLOOR, "exo-pref: probability of the answers that are not best", ge=0, le=0.5)
    exo_normalize_labels: bool = arg(False, "exo-pref: let the smoothed label sum to one (the original does not)")
    min_log_target: float | None = arg(None, "exo-rw: log p is not taken lower than this", le=0)
    tie_policy: Literal["drop", "second"] = arg(
        "drop",
        "groups with equal best answers are left out, or trained on (exo-pref: the second wins; dpo-pref: as labelled)",
    )

    @property
    def kind(self) -> str:
        """The one loss type."""
        return self.loss_type[0]

    def problems(self) -> list[str]:
        """Values that do not go together."""
        found = type_problems(self.loss_type, KINDS, single=True)
        zeros = [name for name in ("beta_pi", "beta_r", "temperature") if not getattr(self, name)]
        found += [f"--{name} must be above 0" for name in zeros]
        if not 0 < self.exo_label_smoothing < 0.5:
            found.append("--exo_label_smoothing must lie between 0 and 0.5: at 0 the loss is infinite")
        if found:
            return found
        readers = {
            "beta_r": ("exo-rw", "dpo-rw"),
            "exo_label_smoothing": ("exo-pref",),
            "exo_normalize_labels": ("exo-pref",),
            "min_log_target": ("exo-rw",),
            "tie_policy": ("exo-pref", "dpo-pref"),
        }
        usual = ExoArgs()
        return [
            f"--{name}: loss_type {self.kind} does not use it (only {', '.join(kinds)})"
            for name, kinds in readers.items()
            if self.kind not in kinds and getattr(self, name) != getattr(usual, name)
        ]


class Groups(NamedTuple):
    """[G, N]: the answers that are compared with each other, and which of the G groups count."""

    drift: Tensor
    scores: Tensor
    counts: Tensor


def exo(record: GroupLogps, args: ExoArgs) -> Loss:
    """Ji et al. 2024. Groups of N answers with rewards R; `q = softmax(beta_pi d)`, `d = log policy - log reference`.

    exo-rw: `KL(q || p)`, `p = softmax(R / beta_r)`. exo-pref: `KL(q || p)`, p the smoothed best answer (eq. 16).
    dpo-rw: `-sum p log q`. dpo-pref: `-sum R log q`, which is DPO for R = (1, 0). The mean is over groups.
    """
    import torch

    if record.scores is None or record.present is None:
        raise ValueError("this objective needs scores of the answers")
    record = widened(record)
    groups = _groups(record.ratios, record.scores.to(record.policy.dtype), record.present, args)
    log_q = torch.log_softmax(args.beta_pi * groups.drift, dim=-1)
    q = log_q.exp()
    if args.kind.startswith("exo"):
        rows = (q * (log_q - _log_target(groups.scores, args))).sum(-1)
        distance = rows
    else:
        p = groups.scores if args.kind == "dpo-pref" else torch.softmax(groups.scores / args.beta_r, dim=-1)
        rows = -(p * log_q).sum(-1)
        distance = rows + torch.special.xlogy(p, p.clamp(min=0)).sum(-1)
    rows = torch.where(groups.counts, rows, 0)
    metrics = {"exo/kl": distance, "exo/entropy_q": -(q * log_q).sum(-1)}
    metrics = {name: value[groups.counts].detach() for name, value in metrics.items()}
    rewards = args.beta_pi * record.ratios.detach()
    metrics |= _preferences(record, rewards, groups, args.num_contrastive)
    return Loss(rows, rewards, count=groups.counts.sum(), metrics=metrics)


def _groups(drift: Tensor, scores: Tensor, present: Tensor, args: ExoArgs) -> Groups:
    size = args.num_contrastive
    scores = scores.reshape(-1, size)
    counts = present.reshape(-1, size).all(-1)
    if args.kind.endswith("pref") and args.tie_policy == "drop":
        counts = counts & ((scores == scores.amax(-1, keepdim=True)).sum(-1) == 1)
    return Groups(drift.reshape(-1, size), scores, counts)


def _log_target(scores: Tensor, args: ExoArgs) -> Tensor:
    """log p [G, N]. exo-pref: the best answer, the last of equal ones, has 1 (or 1 - e), every other one e."""
    import torch

    if args.kind == "exo-rw":
        log_p = torch.log_softmax(scores / args.beta_r, dim=-1)
        return log_p if args.min_log_target is None else log_p.clamp(min=args.min_log_target)
    size, epsilon = scores.shape[1], args.exo_label_smoothing
    best = size - 1 - scores.flip(-1).argmax(-1, keepdim=True)
    low, high = math.log(epsilon), 0.0
    if args.exo_normalize_labels:
        low, high = math.log(epsilon / (size - 1)), math.log1p(-epsilon)
    return scores.new_full(scores.shape, low).scatter(-1, best, high)


def _preferences(record: GroupLogps, rewards: Tensor, groups: Groups, size: int) -> dict[str, Tensor]:
    """Best-labelled against worst-labelled answer of each group that has a preference."""
    decided = groups.counts & (groups.scores.amax(-1) > groups.scores.amin(-1))
    columns = {"chosen": groups.scores.argmax(-1, keepdim=True), "rejected": groups.scores.argmin(-1, keepdim=True)}
    found = {}
    for kind, values in (("rewards", rewards), ("logps", record.policy.detach())):
        for name, column in columns.items():
            found[f"{kind}/{name}"] = values.reshape(-1, size).gather(-1, column).squeeze(-1)[decided]
    margins = found["rewards/chosen"] - found["rewards/rejected"]
    return found | {"rewards/margins": margins, "rewards/accuracies": (margins > 0).to(margins.dtype)}


def units(scores: Tensor, present: Tensor, args: ExoArgs) -> Tensor:
    """Groups of a micro-batch that count."""
    return _groups(scores, scores, present, args).counts.sum()


def refuse(scores: Sequence[float], size: int, args: ExoArgs) -> tuple[str, str] | None:
    """A row whose answers cannot be divided into groups, or whose labels are no distribution."""
    if size % args.num_contrastive:
        fits = [str(n) for n in range(2, size + 1) if size % n == 0]
        way = f"; {' or '.join(fits)} would do for this row" if fits else ""
        return "answers do not fill groups", f"{size} answers, --num_contrastive {args.num_contrastive}{way}"
    if args.kind == "dpo-pref":
        shown = scaled(scores, args)
        for start in range(0, size, args.num_contrastive):
            total = math.fsum(shown[start : start + args.num_contrastive])
            if abs(total - 1) > 1e-6:
                detail = f"{list(scores)}: dpo-pref weighs answers by these numbers, so those of a group must sum to 1"
                return "labels are no distribution", f"{detail}; for rewards take dpo-rw"
    return None


def scaled(scores: Sequence[float], args: ExoArgs) -> Sequence[float]:
    """dpo-pref reads labels below 0 as 0."""
    return [max(score, 0.0) for score in scores] if args.kind == "dpo-pref" else scores


def advice(rows: Sequence[Any], args: ExoArgs, together: int) -> str | None:
    """How many groups have no single best answer."""
    if args.kind.endswith("rw"):
        return None
    size = args.num_contrastive
    groups = [row.scores[start : start + size] for row in rows for start in range(0, len(row.scores), size)]
    tied = sum(group.count(max(group)) > 1 for group in groups)
    if not tied:
        return None
    kept = "decided for the last of the equal answers" if args.kind == "exo-pref" else "trained on as they are"
    fate = "not trained on" if args.tie_policy == "drop" else kept
    return f"{tied} of {len(groups)} groups have equal best answers and are {fate} (--tie_policy {args.tie_policy})"


def words(args: ExoArgs) -> str:
    """`EXO exo-rw(groups of 4, beta_pi 0.5, beta_r 0.5)`."""
    facts = [f"groups of {args.num_contrastive}", f"beta_pi {args.beta_pi}"]
    if args.kind.endswith("rw"):
        facts.append(f"beta_r {args.beta_r}")
    if args.kind == "exo-pref":
        facts.append(f"label smoothing {args.exo_label_smoothing:.2g}")
    if args.temperature != 1:
        facts.append(f"temperature {args.temperature}")
    return f"EXO {args.kind}({', '.join(facts)})"


CARD = LossCard(
    name="exo",
    fn=exo,
    args=ExoArgs,
    data="ranked",
    paper="https://arxiv.org/abs/2402.00856",
    summary="efficient exact optimisation: reverse KL to what rewards or preferences imply, over K answers",
    words=words,
    needs_reference=lambda args: True,
    temperature=lambda args: args.temperature,
    units=units,
    refuse=refuse,
    scaled=scaled,
    advice=advice,
    formula="exo-*: KL(q || p), dpo-*: - sum of p log q, over groups of N answers; q = softmax(beta_pi d), p = "
    "softmax(R / beta_r) or the best answer",
    when="You have several scored answers for each prompt (from sampling and a reward model), or want the "
    "mode-seeking divergence on pairs. The more answers in a group, the closer to the exact optimum.",
    defaults="Those of the original's command line; its scripts use beta_pi 0.5, beta_r 0.5 and temperature 0.8 "
    "(what the answers were sampled with), with 4 answers a prompt.",
    differs=(
        "The original's label_smooth is never read, a floor of -10 is built in: here it is "
        "--exo_label_smoothing e^-10, with the same numbers.",
        "In a tie the original lets the second answer win; here the group is left out and counted "
        "(--tie_policy second).",
        "Its exo-pref looks at the first two of a group and takes raw rewards as log-probabilities of the "
        "others; here the best wins and all others lose.",
        "Its dpo-pref multiplies by whatever the labels are; here they must be a distribution, and a row "
        "where they are not is named.",
        "Every candidate there sees a prompt cut to its own length; here the prompt is cut once for all "
        "(--truncation_strategy left_each for the original's).",
        "Prompts may differ in their number of answers; epochs, bfloat16 and changed data under the same name work.",
    ),
)
