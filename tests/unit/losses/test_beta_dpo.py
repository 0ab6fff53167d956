"""beta-DPO where the original stops with an error, and its pieces alone."""

from __future__ import annotations

import dataclasses as dc
import math
from collections import Counter

import pytest
import torch

from swiftlike.losses.beta_dpo import (
    BetaDpoArgs,
    State,
    advice,
    batch_beta,
    beta_dpo,
    collect,
    draw,
    kept,
    log_weights,
    moved,
)

from .records import group


@dc.dataclass
class Alone:
    """One process."""

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        return values

    share = own = gather


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("rows", "ratio", "count"),
    [(10, 0.2, 8), (10, 0.9, 1), (10, 0.25, 7), (1, 0.2, 1), (4, 0.25, 3), (7, 0.0, 7)],
)
def test_kept(rows: int, ratio: float, count: int) -> None:
    """floor(B (1 - ratio)) without the rounding error of the original (10 and 0.9 give 0 there), at least one."""
    assert kept(rows, BetaDpoArgs(beta_filter_ratio=ratio)) == count


def test_statistics_by_hand() -> None:
    args = BetaDpoArgs(beta=0.5)
    state = moved(State(seed=1, gap_mean=1.0, gap_std=2.0), numbers(1, 2, 6), args)
    assert (state.gap_mean, state.gap_std) == pytest.approx((0.9 + 0.3, 1.8 + 0.1 * math.sqrt(7)))
    losses = [math.log1p(math.exp(-0.5 * gap)) for gap in (1, 2, 6)]
    assert state.loss_mean == pytest.approx(0.1 * sum(losses) / 3)
    assert state.draws == 1
    alone = moved(state, numbers(4.0), args)
    assert alone.gap_std == state.gap_std
    assert alone.gap_mean == pytest.approx(0.9 * state.gap_mean + 0.4)


def test_statistics_may_start_at_the_first_batch() -> None:
    args = BetaDpoArgs(beta_stats_init="batch")
    first = moved(State(seed=1), numbers(1, 2, 6), args)
    assert (first.gap_mean, first.gap_std) == pytest.approx((3.0, math.sqrt(7)))
    assert moved(first, numbers(13, 13), args).gap_mean == pytest.approx(2.7 + 1.3)


@pytest.mark.parametrize("std", [0.0, 1e-9, math.inf, math.nan])
def test_weights_are_equal_where_the_deviation_says_nothing(std: float) -> None:
    assert log_weights(numbers(1, 2, 3), State(seed=1, gap_std=std)).tolist() == [0, 0, 0]
    assert log_weights(numbers(5), State(seed=1, gap_std=1.0)).tolist() == [0]


def test_far_away_gaps_still_draw() -> None:
    """All weights would be zero as numbers; the nearest rows are kept."""
    weights = log_weights(numbers(1000, 1001, 5000, 999), State(seed=1, gap_std=0.1))
    assert weights.exp().sum() == 0
    for seed in range(20):
        mask = draw(weights, 3, torch.Generator().manual_seed(seed))
        assert mask.tolist() == [1, 1, 0, 1]


def test_draws_follow_the_weights() -> None:
    """Without replacement: the first row is missing as often as theory says."""
    chances = numbers(0.1, 0.3, 0.6)
    generator = torch.Generator().manual_seed(0)
    found = Counter(tuple(draw(chances.log(), 2, generator).tolist()) for _ in range(6000))
    without_first = 0.3 * 0.6 / 0.7 + 0.6 * 0.3 / 0.4
    assert found[(0.0, 1.0, 1.0)] / 6000 == pytest.approx(without_first, abs=0.02)
    assert all(sum(mask) == 2 for mask in found)


def test_beta_has_a_floor_and_reads_kept_gaps_only() -> None:
    args, state = BetaDpoArgs(), State(seed=1, gap_mean=1.0)
    assert batch_beta(numbers(3, 100), numbers(1, 0), state, args) == pytest.approx(0.1 * (1 + 0.6 * 2))
    assert batch_beta(numbers(-100, 5), numbers(1, 1), state, args) == 1e-3


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_equal_gaps_and_small_batches(rows: int) -> None:
    """The first batch of every run: policy = reference. The original raises."""
    record = group(rows=rows)
    record = dc.replace(record, policy=record.reference.clone())
    decision, state = collect(record, BetaDpoArgs(), State(seed=3), Alone())
    loss = beta_dpo(record, BetaDpoArgs(), decision)
    assert loss.value == pytest.approx(math.log(2))
    assert state.gap_std == 0
    assert decision.beta == pytest.approx(0.1)
    assert int(loss.units) == kept(rows, BetaDpoArgs()) == decision.kept


def test_draws_depend_on_seed_and_number_only() -> None:
    record, args = group(rows=8), BetaDpoArgs(beta_filter_ratio=0.5)
    record = dc.replace(record, policy=record.reference.clone())  # equal weights
    (one, after), (same, _), (other, _) = (collect(record, args, State(seed=seed), Alone()) for seed in (1, 1, 2))
    assert one.mask.equal(same.mask)
    masks = {tuple(collect(record, args, State(seed=seed), Alone())[0].mask.tolist()) for seed in range(8)}
    assert len(masks) > 2
    assert other.kept == 4
    assert after.draws == 1


def test_evaluation_reads_every_row_at_the_given_beta() -> None:
    record = group(rows=5)
    loss = beta_dpo(record, BetaDpoArgs(beta=0.3), None)
    gaps = record.ratios[:, 0] - record.ratios[:, 1]
    torch.testing.assert_close(loss.rows, torch.nn.functional.softplus(-0.3 * gaps))
    assert loss.count is None


def test_advice_on_few_rows() -> None:
    assert "raise --batch_size" in advice([], BetaDpoArgs(), 1)
    assert advice([], BetaDpoArgs(), 8) is None
