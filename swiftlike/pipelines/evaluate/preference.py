"""Whether a policy finds the preferred answers likelier, by the forward pass and the counting of training."""

from __future__ import annotations

import dataclasses as dc
from typing import TYPE_CHECKING

from swiftlike.core.merge import Run
from swiftlike.losses.base import GroupLogps, Loss, LossCard
from swiftlike.losses.terms import pair_difference, widened
from swiftlike.pipelines.evaluate.policies import measure_of, reference_of
from swiftlike.pipelines.evaluate.results import Values, model_facts, publish
from swiftlike.pipelines.evaluate.rows import evaluate, read
from swiftlike.pipelines.prepare import encoder
from swiftlike.pipelines.serving import open_model

if TYPE_CHECKING:
    from torch import Tensor

_REWARDS = ("rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected")
_LOGPS = (
    *("accuracy", "mean_margin", "accuracy_averaged", "mean_margin_averaged"),
    *("logps/chosen", "logps/rejected", "logps_averaged/chosen", "logps_averaged/rejected"),
)


@dc.dataclass(frozen=True)
class Args:
    """`beta` scales implicit rewards (Rafailov et al. 2023 eq. 5); None without a reference."""

    beta: float | None


def compared(record: GroupLogps, args: Args) -> Loss:
    """Nothing to minimise: metrics of summed and of length-averaged log-probabilities, and implicit rewards
    `beta (log p(y) - log p_ref(y))`."""
    record = widened(record)
    metrics: dict[str, Tensor] = {}
    for name, values in (("", record.policy), ("_averaged", record.mean)):
        margin = pair_difference(values)
        metrics |= {f"accuracy{name}": (margin > 0).to(margin.dtype), f"mean_margin{name}": margin}
    metrics |= {f"logps_averaged/{side}": record.mean[:, k] for k, side in enumerate(("chosen", "rejected"))}
    rewards = record.policy if args.beta is None else args.beta * record.ratios
    return Loss(record.policy.new_zeros(len(record.policy)), rewards, metrics=metrics)


CARD = LossCard(
    name="compared",
    fn=compared,
    args=Args,
    data="pair",
    paper="https://arxiv.org/abs/2305.18290",
    summary="log-probabilities of pairs",
    words=lambda args: "log-probabilities of pairs",
    needs_reference=lambda args: args.beta is not None,
)


def run(run: Run) -> int:
    """Shares of pairs whose chosen answer is the likelier one, and mean differences."""
    opened = open_model(run)
    run = opened.run
    rows = read(run, opened, "pair", encoder(run, opened.checkpoint, every=False))
    reference = reference_of(run, opened)
    args = Args(run.eval.beta if reference is not None else None)
    what = measure_of(run, opened, CARD, args, reference)
    found = evaluate(run, opened.checkpoint, rows.groups, what).means
    values: Values = {**model_facts(opened), **rows.facts()}
    values |= {name: found[name] for name in _LOGPS}
    if reference is not None:
        asked = run.eval.ref_model or "the model without its adapter"
        values |= {"reference": asked, "beta": run.eval.beta} | {name: found[name] for name in _REWARDS}
    publish(run, values)
    return 0
