"""Metrics as sums and counts."""

from __future__ import annotations

import dataclasses as dc

import pytest
import torch

from swiftlike.losses import LOSSES
from swiftlike.losses.metrics import preference_metrics
from swiftlike.trainers.records import Tally

from .records import group, labelled, loss_of, record_for

Pairs = dict[str, tuple[torch.Tensor, torch.Tensor]]


def means(*parts: Pairs) -> dict[str, float]:
    """As a trainer averages over ranks and micro-batches: add, then divide what was counted."""
    tally = Tally()
    for part in parts:
        tally.add(part)
    return tally.means(list(parts[0]), "cpu", lambda one: one)


def rows(record, part: slice):
    fields = {f.name: getattr(record, f.name) for f in dc.fields(record)}
    return dc.replace(record, **{k: v[part] for k, v in fields.items() if v is not None and v.ndim})


@pytest.mark.parametrize("name", LOSSES.names())
def test_splitting_a_batch_changes_nothing(name: str) -> None:
    """Uneven micro-batches average to the metrics of the whole batch; no key depends on what a batch holds."""
    card = LOSSES.get(name)
    record = record_for(card)
    whole, *parts = (
        preference_metrics(one, loss_of(card, one))
        for one in (record, rows(record, slice(0, 1)), rows(record, slice(1, None)))
    )
    assert whole.keys() == parts[0].keys() == parts[1].keys()
    assert means(*parts) == pytest.approx(means(whole), rel=1e-12)
    assert all(total.shape == count.shape == () for total, count in whole.values())


def test_pair_values() -> None:
    """By hand, DPO with beta 1: drifts (1, 0), (-1, 0), (2, 2): a tie is no win."""
    reference = torch.tensor([[-5.0, -6.0], [-4.0, -3.0], [-2.0, -8.0]], dtype=torch.float64)
    drift = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [2.0, 2.0]], dtype=torch.float64)
    record = dc.replace(group(3), policy=reference + drift, reference=reference, tokens=torch.tensor([[2, 3]] * 3))
    card = LOSSES.get("dpo")
    found = means(preference_metrics(record, loss_of(card, record, card.args(beta=1.0))))
    expected = {
        "rewards/chosen": 2 / 3,
        "rewards/rejected": 2 / 3,
        "rewards/margins": 0.0,
        "rewards/accuracies": 1 / 3,
        "logps/chosen": (-4 - 5 + 0) / 3,
        "logps/rejected": (-6 - 3 - 6) / 3,
        "nll_loss": 9 / 6,
    }
    assert found == pytest.approx(expected, abs=1e-12)


def test_no_nll_metric_without_the_term() -> None:
    """rpo_alpha none: there is nothing to report."""
    card = LOSSES.get("dpo")
    assert "nll_loss" not in preference_metrics(group(), loss_of(card, group(), card.args(rpo_alpha=None)))


def test_a_class_that_is_absent() -> None:
    """KTO: its averages are left out and so is the margin; another micro-batch may still bring them."""
    card, record = LOSSES.get("kto"), labelled(4)
    good = dc.replace(record, desirable=torch.ones(4, dtype=torch.bool))
    found = preference_metrics(good, loss_of(card, good))
    assert set(means(found)) == {"rewards/chosen", "logps/chosen", "kl"}
    both = means(found, preference_metrics(record, loss_of(card, record)))
    assert both["rewards/margins"] == pytest.approx(both["rewards/chosen"] - both["rewards/rejected"])


@pytest.mark.parametrize(("name", "averaged"), [("dpo", False), ("cpo", False), ("simpo", True), ("orpo", True)])
def test_logps_are_what_the_objective_reads(name: str, averaged: bool) -> None:
    """Sums, or averages for the objectives that divide by the length."""
    record = group()
    logps = record.mean if averaged else record.policy
    found = means(preference_metrics(record, loss_of(LOSSES.get(name), record)))
    assert found["logps/chosen"] == pytest.approx(logps[:, 0].mean().item())
    assert found["logps/rejected"] == pytest.approx(logps[:, 1].mean().item())
