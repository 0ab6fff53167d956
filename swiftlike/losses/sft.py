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
)
