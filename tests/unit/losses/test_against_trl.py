"""Random batches through TRL's own loss methods, where TRL is installed: they need no trainer, only its settings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from swiftlike.losses import LOSSES

from .records import group, loss_of

pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore:You are importing from 'trl.experimental'")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("cpo", {"loss_type": ["sigmoid"], "beta": 0.3, "label_smoothing": 0.2}),
        ("cpo", {"loss_type": ["hinge"], "beta": 0.3}),
        ("cpo", {"loss_type": ["ipo"], "beta": 0.3}),
        ("simpo", {"beta": 1.7, "simpo_gamma": 0.6, "label_smoothing": 0.1}),
    ],
)
def test_cpo(name: str, values: dict[str, Any], seed: int) -> None:
    """CPOTrainer.cpo_loss: rows and rewards, on averages where its trainer would average."""
    from trl.experimental.cpo import CPOTrainer

    card, record = LOSSES.get(name), group(seed=seed)
    loss = loss_of(card, record, card.args(**values))
    averaged = name == "simpo" or values["loss_type"] == ["ipo"]
    setting = {"alpha": 0.0, "label_smoothing": 0.0, "accelerator": SimpleNamespace(device="cpu")}
    kind = values.get("loss_type", ["simpo"])[0]
    trainer = SimpleNamespace(**setting | values | {"loss_type": kind})
    rows, chosen, rejected = CPOTrainer.cpo_loss(trainer, *(record.mean if averaged else record.policy).unbind(1))
    torch.testing.assert_close(loss.rows, rows)
    torch.testing.assert_close(loss.rewards, torch.stack([chosen, rejected], dim=1))


@pytest.mark.parametrize("seed", range(3))
def test_orpo(seed: int) -> None:
    """ORPOTrainer.odds_ratio_loss, which casts to float32."""
    from trl.experimental.orpo import ORPOTrainer

    card, record = LOSSES.get("orpo"), group(seed=seed)
    loss = loss_of(card, record, card.args(beta=0.4))
    trainer = SimpleNamespace(beta=0.4, accelerator=SimpleNamespace(device="cpu"))
    rows, chosen, rejected, ratio, odds = ORPOTrainer.odds_ratio_loss(trainer, *record.mean.unbind(1))
    near = {"rtol": 2e-5, "atol": 2e-5, "check_dtype": False}
    torch.testing.assert_close(-loss.rows, rows, **near)
    torch.testing.assert_close(loss.rewards, torch.stack([chosen, rejected], dim=1), **near)
    torch.testing.assert_close(loss.metrics["log_odds_ratio"].mean(), ratio, **near)
    torch.testing.assert_close(loss.metrics["log_odds_chosen"].mean(), odds, **near)
