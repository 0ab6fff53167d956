"""Analytic against numerical derivatives, in float64, for everything in the registry."""

from __future__ import annotations

import dataclasses as dc
from typing import Any

import pytest
import torch

from swiftlike.losses import LOSSES
from swiftlike.losses.aipo import KINDS as AIPO_KINDS
from swiftlike.losses.dpo import TERMS
from swiftlike.losses.orpo import log1mexp

from .records import group, loss_of, record_for, trained

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in LOSSES.names()),
    *(("dpo", {"loss_type": [kind], "label_smoothing": 0.1, "rpo_alpha": None}) for kind in TERMS),
    ("dpo", {"loss_type": ["sigmoid", "ipo", "sft"], "loss_weights": [0.5, 0.01, 0.3]}),
    ("dpo", {"reference_free": True}),
    ("cpo", {"loss_type": ["hinge"]}),
    ("cpo", {"loss_type": ["ipo"]}),
    ("simpo", {"cpo_alpha": 0.0, "label_smoothing": 0.1}),
    ("orpo", {"orpo_nll_scope": "all"}),
    ("kto", {"desirable_weight": 0.7, "undesirable_weight": 1.3}),
    *(("exo", {"loss_type": [kind], "beta_pi": 0.3, "beta_r": 0.7}) for kind in ("exo-rw", "dpo-rw")),
    ("exo", {"exo_label_smoothing": 0.1, "exo_normalize_labels": True}),
    ("exo", {"loss_type": ["exo-rw"], "min_log_target": -0.5}),
    *(("aipo", {"loss_type": [kind], "aipo_gamma": 0.4, "label_smoothing": 0.2}) for kind in AIPO_KINDS),
    ("beta_dpo", {"reference_free": True}),
    ("rm", {"center_rewards_coefficient": 0.3}),
    ("apo_rm", {"apo_loss_type": "diff", "apo_sample_num": 2, "rm_kl_coeff": 0.7}),
    ("apo_rm", {"task_type": "rm"}),
]


@pytest.mark.parametrize(("name", "values"), VARIANTS)
def test_gradcheck(name: str, values: dict[str, Any]) -> None:
    """The batch loss as a function of the policy's summed log-probabilities, or of rewards."""
    card = LOSSES.get(name)
    record = record_for(card)
    args, field = card.args(**values), trained(record)

    def value(numbers: torch.Tensor) -> torch.Tensor:
        return loss_of(card, dc.replace(record, **{field: numbers}), args).value

    assert torch.autograd.gradcheck(value, getattr(record, field).clone().requires_grad_())


@pytest.mark.parametrize("name", LOSSES.names())
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_are_widened(name: str, dtype: torch.dtype) -> None:
    """Half-precision log-probabilities give the same loss as their float32 copies, and finite half gradients."""
    card = LOSSES.get(name)
    record = record_for(card)
    half = {
        f.name: v.to(dtype)
        for f in dc.fields(record)
        if torch.is_tensor(v := getattr(record, f.name)) and v.is_floating_point()
    }
    numbers = half[trained(record)].requires_grad_()
    loss = loss_of(card, dc.replace(record, **half)).value
    wide = loss_of(card, dc.replace(record, **{name: value.float() for name, value in half.items()})).value
    assert loss.dtype == torch.float32
    assert loss.equal(wide)
    (slope,) = torch.autograd.grad(loss, numbers)
    assert slope.dtype == dtype
    assert slope.isfinite().all()


def test_orpo_survives_certainty() -> None:
    """An answer of probability 1 (log-probability 0) has infinite odds: loss and gradient stay finite."""
    record = group(rows=3)
    policy = torch.tensor([[0.0, -4.0], [-0.0, 0.0], [-1e-300, -700.0]], dtype=torch.float64, requires_grad=True)
    loss = loss_of(LOSSES.get("orpo"), dc.replace(record, policy=policy)).value
    (slope,) = torch.autograd.grad(loss, policy)
    assert loss.isfinite()
    assert slope.isfinite().all()


@pytest.mark.parametrize(
    ("x", "exact"),
    [(-1e-12, -27.6310211159290), (-0.6931471805599453, -0.6931471805599453), (-40.0, -4.248354255291589e-18)],
)
def test_log1mexp_keeps_its_digits(x: float, exact: float) -> None:
    """Where log(1 - exp(x)) as written would lose them: near 0 and far below."""
    found = log1mexp(torch.tensor(x, dtype=torch.float64)).item()
    assert found == pytest.approx(exact, rel=1e-12)
