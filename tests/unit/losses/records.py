"""Random records in float64, and a card called on them."""

from __future__ import annotations

from typing import Any

import torch

from swiftlike.losses.base import GroupLogps, LabelledLogps, Loss, LossCard


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


def record_for(card: LossCard, seed: int = 0) -> GroupLogps | LabelledLogps:
    """A record of the kind that the card reads."""
    if card.record == "labelled":
        return labelled(seed=seed)
    return group(columns=1 if card.data == "completion" else 2, seed=seed)


def loss_of(card: LossCard, record: Any, args: Any = None) -> Loss:
    """The card's loss with its default arguments, or the given ones, from a fresh state."""
    state = [card.start()] if card.start else []
    return card.fn(record, card.args() if args is None else args, *state)
