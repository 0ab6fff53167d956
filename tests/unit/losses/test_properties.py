"""What must hold for any numbers."""

from __future__ import annotations

import dataclasses as dc
import math

import pytest
import torch
from hypothesis import given, settings, strategies

from swiftlike.losses import LOSSES
from swiftlike.losses.base import GroupLogps, GroupRewards

from .records import group, labelled, loss_of, record_for, trained

seeds = strategies.integers(0, 10_000)
PAIRS = [card for card in LOSSES if card.data == "pair" and card.record == "group"]
quick = settings(max_examples=25, deadline=None, derandomize=True)


def names(cards: list) -> list[str]:
    return [card.name for card in cards]


@pytest.mark.parametrize("name", LOSSES.names())
@given(seed=seeds)
@quick
def test_rows_and_rewards(name: str, seed: int) -> None:
    """One loss per row, one reward per completion, rewards and metrics without gradient."""
    card = LOSSES.get(name)
    record = record_for(card, seed)
    values = getattr(record, trained(record))
    loss = loss_of(card, dc.replace(record, **{trained(record): values.clone().requires_grad_()}))
    assert loss.rows.shape == values.shape[:1]
    assert loss.rewards.shape == values.shape
    assert not loss.rewards.requires_grad
    assert not any(value.requires_grad for value in loss.metrics.values())
    assert loss.value.requires_grad


@pytest.mark.parametrize("name", LOSSES.names())
@given(seed=seeds)
@quick
def test_order_of_rows(name: str, seed: int) -> None:
    """A shuffled batch gives shuffled rows and the same loss."""
    card = LOSSES.get(name)
    record = record_for(card, seed)
    order = torch.randperm(len(getattr(record, trained(record))), generator=torch.Generator().manual_seed(seed))
    fields = {f.name: getattr(record, f.name) for f in dc.fields(record)}
    mixed = dc.replace(record, **{k: v[order] for k, v in fields.items() if v is not None and v.ndim})
    loss, other = loss_of(card, record), loss_of(card, mixed)
    torch.testing.assert_close(other.rows, loss.rows[order])
    torch.testing.assert_close(other.value, loss.value)


@pytest.mark.parametrize("card", PAIRS, ids=names(PAIRS))
@given(seed=seeds)
@quick
def test_gradient_signs(card, seed: int) -> None:
    """A step down makes the chosen answer likelier and the rejected one less likely."""
    record = group(seed=seed)
    policy = record.policy.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss_of(card, dc.replace(record, policy=policy)).value, policy)
    assert (slope[:, 0] < 0).all()
    assert (slope[:, 1] > 0).all()


@pytest.mark.parametrize("name", [card.name for card in LOSSES if card.needs_reference(card.args())])
@given(seed=seeds)
@quick
def test_reference_matters_only_as_a_difference(name: str, seed: int) -> None:
    """Policy and reference moved by the same amount per answer leave the rows alone, AIPO's NLL of the policy apart."""
    card = LOSSES.get(name)
    args = card.args(loss_type=["alpha_dpo"], aipo_alpha=0.0) if name == "aipo" else card.args()
    record = record_for(card, seed)
    moved = dc.replace(record, policy=record.policy - 3, reference=record.reference - 3)
    torch.testing.assert_close(loss_of(card, moved, args).rows, loss_of(card, record, args).rows)


@pytest.mark.parametrize(
    "name", [card.name for card in LOSSES if not card.needs_reference(card.args()) and card.record != "rewards"]
)
def test_reference_is_not_read(name: str) -> None:
    """An objective that says it needs no reference works without one."""
    card = LOSSES.get(name)
    record = record_for(card)
    assert loss_of(card, dc.replace(record, reference=None)).value.equal(loss_of(card, record).value)


@pytest.mark.parametrize("kind", ["sigmoid", "robust", "sigmoid_norm"])
@given(seed=seeds)
@quick
def test_dpo_starts_at_log_2(kind: str, seed: int) -> None:
    """Policy equal to reference."""
    record = group(seed=seed)
    args = LOSSES.get("dpo").args(loss_type=[kind], rpo_alpha=None, label_smoothing=0.2 * (kind != "sigmoid_norm"))
    rows = loss_of(LOSSES.get("dpo"), dc.replace(record, reference=record.policy), args).rows
    torch.testing.assert_close(rows, torch.full_like(rows, math.log(2)))


def test_dpo_needs_its_reference() -> None:
    """No reference is an error, not a reference-free loss."""
    with pytest.raises(ValueError, match="reference"):
        loss_of(LOSSES.get("dpo"), dc.replace(group(), reference=None))


@given(seed=seeds, first=strategies.floats(-3, 3), second=strategies.floats(-3, 3))
@quick
def test_dpo_mix_is_linear(seed: int, first: float, second: float) -> None:
    """A mix is the weighted sum of its parts; `sft` and rpo_alpha are one and the same term."""
    card, record = LOSSES.get("dpo"), group(seed=seed)

    def value(kinds: list[str], weights: list[float], alpha: float | None = None) -> torch.Tensor:
        return loss_of(card, record, card.args(loss_type=kinds, loss_weights=weights, rpo_alpha=alpha)).value

    parts = first * value(["hinge"], [1.0]) + second * value(["sft"], [1.0])
    torch.testing.assert_close(value(["hinge", "sft"], [first, second]), parts)
    torch.testing.assert_close(value(["hinge"], [first], abs(second)), value(["hinge", "sft"], [first, abs(second)]))


@given(seed=seeds)
@quick
def test_dpo_relatives(seed: int) -> None:
    """robust without flips is sigmoid; smoothing mixes in the swapped pair; no reference is CPO."""
    card, record = LOSSES.get("dpo"), group(seed=seed)
    plain = loss_of(card, record, card.args()).rows
    torch.testing.assert_close(loss_of(card, record, card.args(loss_type=["robust"])).rows, plain)
    halves = [loss_of(card, one, card.args()).rows for one in (record, swapped(record))]
    smooth = loss_of(card, record, card.args(label_smoothing=0.3)).rows
    torch.testing.assert_close(smooth, 0.7 * halves[0] + 0.3 * halves[1])
    free = loss_of(card, record, card.args(reference_free=True))
    torch.testing.assert_close(free.value, loss_of(LOSSES.get("cpo"), record).value)
    assert free.rewards.equal(loss_of(card, record).rewards)


@given(seed=seeds)
@quick
def test_simpo_reads_averages(seed: int) -> None:
    """Answers three times as long, at the same log-probability per token: same rows, same rewards."""
    card, record = LOSSES.get("simpo"), group(seed=seed)
    longer = dc.replace(record, policy=3 * record.policy, tokens=3 * record.tokens)
    loss, other = loss_of(card, record), loss_of(card, longer)
    torch.testing.assert_close(other.rows, loss.rows)
    torch.testing.assert_close(other.rewards, loss.rewards)


def test_simpo_gamma_is_outside_beta() -> None:
    """Equal answers: the loss is -log s(-gamma) whatever beta is."""
    card, record = LOSSES.get("simpo"), group()
    equal = dc.replace(record, policy=-record.tokens.double())
    for beta in (0.5, 7.0):
        rows = loss_of(card, equal, card.args(beta=beta, simpo_gamma=1.6)).rows
        torch.testing.assert_close(rows, torch.full_like(rows, math.log1p(math.exp(1.6))))


@given(seed=seeds)
@quick
def test_orpo_without_its_ratio_is_sft(seed: int) -> None:
    """beta 0 leaves the NLL of the chosen answer, and the scope decides about the prompt."""
    card, record = LOSSES.get("orpo"), group(seed=seed)
    chosen = dc.replace(record, policy=record.policy[:, :1], tokens=record.tokens[:, :1])
    torch.testing.assert_close(
        loss_of(card, record, card.args(beta=0.0)).value, loss_of(LOSSES.get("sft"), chosen).value
    )
    total = record.prompt_nll.sum() - record.policy[:, 0].sum()
    tokens = record.prompt_tokens.sum() + record.tokens[:, 0].sum()
    torch.testing.assert_close(loss_of(card, record, card.args(beta=0.0, orpo_nll_scope="all")).value, total / tokens)


@given(seed=seeds, good=strategies.floats(0.1, 3), bad=strategies.floats(0.1, 3))
@quick
def test_kto_mirror(seed: int, good: float, bad: float) -> None:
    """All labels turned, drifts mirrored about the KL point and weights swapped: the same loss."""
    card, record = LOSSES.get("kto"), labelled(seed=seed)
    drift = record.policy - record.reference
    mirrored = dc.replace(record, policy=record.reference + 2 * record.kl - drift, desirable=~record.desirable)
    one = loss_of(card, record, card.args(desirable_weight=good, undesirable_weight=bad))
    other = loss_of(card, mirrored, card.args(desirable_weight=bad, undesirable_weight=good))
    torch.testing.assert_close(one.rows, other.rows)


def test_kto_kl_has_no_gradient_and_no_negative_side() -> None:
    """The KL point is a constant, clamped at 0."""
    card, record = LOSSES.get("kto"), labelled()
    kl = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert not loss_of(card, dc.replace(record, kl=kl)).value.requires_grad
    below, zero = (loss_of(card, dc.replace(record, kl=torch.tensor(value).double())) for value in (-2.0, 0.0))
    assert below.rows.equal(zero.rows)
    assert below.metrics["kl"] == 0


@pytest.mark.parametrize("name", [card.name for card in LOSSES if card.record == "rewards"])
@given(seed=seeds)
@quick
def test_pairs_counted_ahead(name: str, seed: int) -> None:
    """The trainer divides by what is counted before the forward pass: the same number as the loss finds."""
    card = LOSSES.get(name)
    record = record_for(card, seed)
    assert isinstance(record, GroupRewards)
    missing = dc.replace(record, present=record.present & (torch.arange(4)[:, None] != seed % 5))
    for one in (record, missing):
        assert loss_of(card, one).units == float(card.units(one.scores, one.present, card.args()))


@pytest.mark.parametrize("name", [card.name for card in LOSSES if card.record == "rewards"])
@given(seed=seeds)
@quick
def test_rewards_rise_for_better_answers(name: str, seed: int) -> None:
    """A step down raises the best answer and lowers the worst; an answer that is not there has no gradient."""
    card = LOSSES.get(name)
    record = record_for(card, seed)
    assert isinstance(record, GroupRewards)
    values = record.rewards.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss_of(card, dc.replace(record, rewards=values)).value, values)
    assert (slope[:, 0] < 0).all()
    assert (slope[:, 1] > 0).all()
    assert (slope[~record.present] == 0).all()


@pytest.mark.parametrize("name", LOSSES.names())
def test_tokens_counted_ahead(name: str) -> None:
    """The trainer counts an optimiser step's NLL tokens before the forward pass: the same number as the loss finds."""
    card = LOSSES.get(name)
    record = record_for(card)
    variants = [card.args()] + ([card.args(orpo_nll_scope="all")] if name == "orpo" else [])
    for args in variants:
        nll = loss_of(card, record, args).nll
        if nll is not None:
            assert nll.tokens == card.nll_tokens(record.tokens, getattr(record, "prompt_tokens", None), args)


def swapped(record: GroupLogps) -> GroupLogps:
    """Chosen and rejected exchanged."""
    return dc.replace(
        record, policy=record.policy.flip(1), tokens=record.tokens.flip(1), reference=record.reference.flip(1)
    )
