"""Start-up words, refused combinations, KTO's weights; the package stays cold."""

from __future__ import annotations

import subprocess
import sys

import pytest

from swiftlike.core.declare import types_of
from swiftlike.losses import LOSSES
from swiftlike.losses.kto import KtoArgs, weight_advice


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("dpo", {}, "DPO(beta 0.1) + 1.0 x NLL(chosen)"),
        ("dpo", {"rpo_alpha": None, "label_smoothing": 0.2}, "DPO(beta 0.1, label smoothing 0.2)"),
        ("dpo", {"rpo_alpha": 0.0, "loss_type": ["ipo"]}, "DPO ipo(beta 0.1)"),
        ("dpo", {"rpo_alpha": 0.0, "loss_type": ["sft"]}, "1.0 x NLL(chosen)"),
        (
            "dpo",
            {"loss_type": ["sigmoid", "sft"], "loss_weights": [0.8, 0.2], "reference_free": True},
            "0.8 x DPO(beta 0.1, no reference) + 1.2 x NLL(chosen)",
        ),
        ("cpo", {"loss_type": ["hinge"], "cpo_alpha": 0.5}, "CPO hinge(beta 0.1) + 0.5 x NLL(chosen)"),
        ("simpo", {"cpo_alpha": 0.0}, "SimPO(beta 2.0, gamma 1.0)"),
        ("orpo", {"orpo_nll_scope": "all"}, "ORPO: NLL(prompt and chosen) + 0.1 x odds ratio"),
        ("kto", {}, "KTO(beta 0.1, weights 1.0 good, 1.0 bad)"),
        ("sft", {}, "NLL(completion)"),
    ],
)
def test_words(name: str, values: dict, words: str) -> None:
    """What the start-up line says."""
    card = LOSSES.get(name)
    assert card.words(card.args(**values)) == words


def test_simpo_says_what_its_default_is() -> None:
    """The default is not the paper's method."""
    card = LOSSES.get("simpo")
    assert "paper's SimPO is --cpo_alpha 0" in card.words(card.args())


@pytest.mark.parametrize(
    ("name", "values", "problem"),
    [
        ("dpo", {"loss_type": ["sigmoyd"]}, "did you mean 'sigmoid'"),
        ("dpo", {"loss_type": []}, "at least one"),
        ("dpo", {"loss_weights": [1.0, 2.0]}, "2 given for 1"),
        ("dpo", {"loss_type": ["robust"], "label_smoothing": 0.5}, "less than 0.5"),
        ("dpo", {"loss_type": ["exo_pair"]}, "infinite"),
        ("dpo", {"loss_type": ["ipo"], "beta": 0.0}, "divides by beta"),
        ("dpo", {"loss_type": ["hinge", "ipo"], "label_smoothing": 0.1}, "does not use it"),
        ("cpo", {"loss_type": ["simpo"]}, "--rlhf_type simpo"),
        ("cpo", {"loss_type": ["sigmoid", "hinge"]}, "exactly one"),
        ("cpo", {"loss_type": ["hinge"], "label_smoothing": 0.1}, "does not use it"),
        ("cpo", {"loss_type": ["ipo"], "beta": 0.0}, "divides by beta"),
        ("kto", {"loss_type": ["bco"]}, "not one of kto"),
    ],
)
def test_refused(name: str, values: dict, problem: str) -> None:
    """One sentence for each combination that cannot be meant."""
    (found,) = LOSSES.get(name).args(**values).problems()
    assert problem in found


@pytest.mark.parametrize("name", LOSSES.names())
def test_defaults_are_fine(name: str) -> None:
    """No objective refuses its own defaults."""
    args = LOSSES.get(name).args()
    assert not hasattr(args, "problems") or args.problems() == []


def test_one_flag_has_one_type() -> None:
    """Same-named flags of different objectives may differ in default, not in type."""
    seen: dict[str, object] = {}
    for card in LOSSES:
        for name, kind in types_of(card.args).items():
            assert seen.setdefault(name, kind) == kind, f"{card.name}: {name}"
    assert seen["beta"] is float


@pytest.mark.parametrize(
    ("counts", "weights", "ranges"),
    [
        ((100, 100), (1.0, 1.0), None),
        ((100, 100), (1.33, 1.0), None),
        ((300, 100), (1.0, 3.0), None),
        ((300, 100), (0.44, 1.0), None),
        ((300, 100), (1.0, 1.0), ("from 0.33 to 0.44", "from 2.26 to 3.00")),
        ((100, 300), (1.0, 1.0), ("from 3.00 to 3.99", "from 0.25 to 0.33")),
        ((100, 0), (1.0, 1.0), None),
    ],
)
def test_weight_advice(counts: tuple, weights: tuple, ranges: tuple | None) -> None:
    """Silent inside the recommended range of either weight; outside, both ranges are named."""
    advice = weight_advice(*counts, KtoArgs(desirable_weight=weights[0], undesirable_weight=weights[1]))
    assert (advice is None) == (ranges is None)
    assert all(part in (advice or "") for part in ranges or ())


def test_registry_is_cold() -> None:
    """Names, flags, defaults and words of every objective without torch."""
    code = (
        "import sys; from swiftlike.losses import LOSSES; [c.words(c.args()) for c in LOSSES]; "
        "sys.exit('torch' in sys.modules or not LOSSES.names())"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
