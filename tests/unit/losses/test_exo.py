"""EXO beyond its golden numbers: groups of any size, ties, labels, limits."""

from __future__ import annotations

import dataclasses as dc
import math

import pytest
import torch
from hypothesis import given, settings, strategies

from swiftlike.losses import LOSSES
from swiftlike.losses.exo import FLOOR, ExoArgs, advice, refuse, scaled, units

from .records import group, loss_of, ranked

EXO = LOSSES.get("exo")
quick = settings(max_examples=25, deadline=None)
seeds = strategies.integers(0, 10_000)


def args(kind: str = "exo-rw", **values) -> ExoArgs:
    return ExoArgs(loss_type=[kind], **values)


@given(seed=seeds, kind=strategies.sampled_from(["exo-rw", "dpo-rw"]))
@quick
def test_the_optimum_is_the_target(seed: int, kind: str) -> None:
    """Where the policy's odds are the rewards' the gradient is zero, and the distance reported as exo/kl too."""
    record = ranked(columns=4, seed=seed)
    record = dc.replace(record, present=torch.ones_like(record.present), reference=group(4, 4, seed).reference)
    policy = (record.reference + record.scores / 0.7 / 0.3).requires_grad_()
    loss = loss_of(EXO, dc.replace(record, policy=policy), args(kind, num_contrastive=4, beta_pi=0.3, beta_r=0.7))
    (slope,) = torch.autograd.grad(loss.value, policy)
    assert slope.abs().max() < 1e-9
    assert loss.metrics["exo/kl"].abs().max() < 1e-9


@given(seed=seeds, kind=strategies.sampled_from(["exo-rw", "exo-pref", "dpo-rw"]))
@quick
def test_missing_answers_count_nowhere(seed: int, kind: str) -> None:
    """A prompt with two answers among prompts with four: as if it were alone with its two."""
    record = ranked(rows=3, columns=4, seed=seed)
    loss = loss_of(EXO, record, args(kind))
    names = ("policy", "reference", "scores", "present", "tokens")
    short = dc.replace(
        record,
        **{name: getattr(record, name)[-1:, :2] for name in names},
    )
    whole = dc.replace(record, **{name: getattr(record, name)[:-1] for name in names})
    parts = [loss_of(EXO, one, args(kind)) for one in (whole, short)]
    assert int(loss.units) == 5
    torch.testing.assert_close(loss.rows.sum(), sum(part.rows.sum() for part in parts))
    assert int(loss.units) == int(units(record.scores, record.present, args(kind)))


def test_more_answers_with_one_winner() -> None:
    """exo-pref over four answers: one best, three others at the floor; normalised labels share the smoothing."""
    record = ranked(rows=2, columns=4)
    record = dc.replace(record, present=torch.ones(2, 4).bool(), policy=record.reference.clone())  # q is uniform
    best = math.log(1 / 4)
    found = loss_of(EXO, record, args("exo-pref", num_contrastive=4)).rows
    assert found.tolist() == pytest.approx([best - 3 / 4 * math.log(FLOOR)] * 2)
    found = loss_of(
        EXO, record, args("exo-pref", num_contrastive=4, exo_label_smoothing=0.3, exo_normalize_labels=True)
    ).rows
    assert found.tolist() == pytest.approx([best - (math.log(0.7) + 3 * math.log(0.1)) / 4] * 2)


@pytest.mark.parametrize(("policy", "trained"), [("drop", 1), ("second", 2)])
def test_ties(policy: str, trained: int) -> None:
    """Equal best answers are left out, or the second wins, as in the original."""
    scores = torch.tensor([[0.5, 0.5], [1.0, 0.0]], dtype=torch.float64)
    record = dc.replace(ranked(rows=2), scores=scores)
    loss = loss_of(EXO, record, args("exo-pref", tie_policy=policy))
    assert int(loss.units) == trained
    if policy == "second":
        turned = dc.replace(record, scores=torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64))
        torch.testing.assert_close(loss.rows, loss_of(EXO, turned, args("exo-pref")).rows)
    rows = [dc.make_dataclass("One", ["scores"])(tuple(one)) for one in scores.tolist()]
    assert advice(rows, args("exo-pref", tie_policy=policy), 8).startswith("1 of 2 groups")
    assert advice(rows[1:], args("exo-pref"), 8) is None
    assert advice(rows, args("exo-rw"), 8) is None


def test_floor_of_the_target() -> None:
    """--min_log_target bounds what a hopeless answer costs."""
    record = dc.replace(ranked(rows=1), scores=torch.tensor([[30.0, -40.0]], dtype=torch.float64))
    free, bounded = (loss_of(EXO, record, args(beta_r=0.5, min_log_target=low)).value for low in (None, -5.0))
    assert free > 40
    assert bounded < 5.5


@pytest.mark.parametrize(
    ("kind", "scores", "size", "said"),
    [
        ("exo-rw", [1.0, 2.0, 3.0], 3, "answers do not fill groups"),
        ("dpo-pref", [0.7, 0.2], 2, "labels are no distribution"),
        ("dpo-pref", [1.0, 0.0, 0.4, 0.5], 4, "labels are no distribution"),
        ("dpo-pref", [1.0, -1.0], 2, None),
        ("dpo-pref", [0.3, 0.7, 0.0, 1.0], 4, None),
        ("exo-rw", [-3.0, 8.0], 2, None),
    ],
)
def test_rows_that_are_refused(kind: str, scores: list[float], size: int, said: str | None) -> None:
    found = refuse(scores, size, args(kind))
    assert (found[0] if found else None) == said
    assert list(scaled(scores, args("dpo-pref"))) == [max(score, 0.0) for score in scores]
    assert list(scaled(scores, args("exo-rw"))) == scores


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"loss_type": ["exo"]}, "not one of exo-pref"),
        ({"loss_type": ["exo-pref", "exo-rw"]}, "exactly one"),
        ({"beta_pi": 0.0}, "--beta_pi must be above 0"),
        ({"exo_label_smoothing": 0.0}, "between 0 and 0.5"),
        ({"beta_r": 0.5}, "--beta_r: loss_type exo-pref does not use it"),
        ({"loss_type": ["exo-rw"], "tie_policy": "second"}, "--tie_policy: loss_type exo-rw does not use it"),
    ],
)
def test_flags_that_do_not_go_together(values: dict, said: str) -> None:
    assert any(said in problem for problem in ExoArgs(**values).problems())
    assert ExoArgs().problems() == []
