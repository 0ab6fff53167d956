"""Supervised fine-tuning: the likelihood of the completion."""

from __future__ import annotations

from swiftlike.core.declare import section
from swiftlike.losses.base import GroupLogps, Loss, LossCard, Nll
from swiftlike.losses.terms import widened


@section
class SftArgs:
    """Supervised fine-tuning has no flags of its own."""


def sft(record: GroupLogps, args: SftArgs) -> Loss:
    """`-sum log p(token) / tokens` over the completions of the whole optimiser step: all of it is in `nll`."""
    record = widened(record)
    rows = record.policy.new_zeros(record.policy.shape[0])
    return Loss(rows, record.mean.detach(), nll=Nll(-record.policy.sum(), record.tokens.sum(), 1.0))


CARD = LossCard(
    name="sft",
    fn=sft,
    args=SftArgs,
    data="completion",
    paper="https://arxiv.org/abs/2203.02155",
    summary="supervised fine-tuning: maximum likelihood of the completion",
    words=lambda args: "NLL(completion)",
    dropout=True,
    formula="- sum of log p(token) / tokens, over all answers of the optimiser step",
    when="You have good answers only, or a base model that does not yet answer in the right form; the usual "
    "first stage before a preference loss.",
    defaults="Nothing to set; ms-swift's learning rates (1e-4 with LoRA, 1e-5 in full).",
    differs=(
        "Some trainers average over each micro-batch first, so that short answers weigh more under gradient "
        "accumulation; here it is one mean over the tokens of the whole optimiser step.",
        "EXO's SFT stage masks every label of a row that needs no padding; such rows train here like any other.",
    ),
)
