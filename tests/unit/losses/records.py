"""Random records in float64, and a card called on them."""

from __future__ import annotations

import dataclasses as dc
from typing import Any

import torch

from swiftlike.losses.base import GroupLogps, GroupRewards, LabelledLogps, Loss, LossCard


def group(rows: int = 4, columns: int = 2, seed: int = 0) -> GroupLogps:
    """Log-probabilities about -1.5 per token; the reference is near the policy, but not equal to it."""
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(2, 9, (rows, columns), generator=draw)
    policy = -tokens * (0.5 + 2 * torch.rand(rows, columns, generator=draw, dtype=torch.float64))
    reference = policy + torch.randn(rows, columns, generator=draw, dtype=torch.float64)
    prompt = torch.randint(1, 5, (rows,), generator=draw)
    return GroupLogps(policy, tokens, reference, prompt_nll=1.3 * prompt.double(), prompt_tokens=prompt)


def labelled(rows: int = 5, seed: int = 0) -> LabelledLogps:
    """Good and bad rows in turn, with a positive KL point."""
    one = group(rows, 1, seed)
    good = torch.arange(rows) % 2 == 0
    kl = torch.tensor(0.3, dtype=torch.float64)
    return LabelledLogps(one.policy[:, 0], one.tokens[:, 0], one.reference[:, 0], good, kl)


def rewards(rows: int = 4, columns: int = 3, seed: int = 0) -> GroupRewards:
    """Rewards about 0 of lists of different lengths, with scores that have ties; every second list is adversarial.
    With two columns no answer is missing."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, generator=draw, dtype=torch.float64)
    scores = torch.randint(0, 4, (rows, columns), generator=draw).double() / 4
    scores[:, :2] = torch.tensor([1.0, 0.0], dtype=torch.float64)
    present = torch.arange(columns) < torch.randint(2, columns + 1, (rows, 1), generator=draw)
    margin = torch.rand(rows, generator=draw, dtype=torch.float64)
    return GroupRewards(values, present, scores, margin, torch.arange(rows) % 2 == 1)


def ranked(rows: int = 4, columns: int = 2, seed: int = 0) -> GroupLogps:
    """Answers with scores; with more than two columns the last prompt has only two."""
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, columns, generator=draw, dtype=torch.float64)
    present = torch.ones(rows, columns, dtype=torch.bool)
    present[-1, 2:] = False
    one = group(rows, columns, seed)
    return dc.replace(
        one, policy=one.policy * present, reference=one.reference * present, scores=scores, present=present
    )


def trained(record: Any) -> str:
    """The field that the objective's gradient goes to."""
    return "rewards" if isinstance(record, GroupRewards) else "policy"


def record_for(card: LossCard, seed: int = 0) -> GroupLogps | LabelledLogps | GroupRewards:
    """A record of the kind that the card reads."""
    if card.record == "rewards":
        return rewards(columns=2 if card.data == "pair" else 3, seed=seed)
    if card.record == "labelled":
        return labelled(seed=seed)
    if card.data == "ranked":
        return ranked(seed=seed)
    return group(columns=1 if card.data == "completion" else 2, seed=seed)


def loss_of(card: LossCard, record: Any, args: Any = None) -> Loss:
    """The card's loss with its default arguments, or the given ones, as in evaluation."""
    shared = [None] if card.collect else []
    return card.fn(record, card.args() if args is None else args, *shared)
