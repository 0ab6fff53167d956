"""Calibration: bins that can be added up, and numbers by hand."""

from __future__ import annotations

import dataclasses as dc

import pytest
import torch

from swiftlike.losses.apo_rm import ApoRmArgs, derive, measure, normalised_scores, summarise
from swiftlike.losses.calibration import as_bins, calibration_error, errors
from swiftlike.trainers.records import Tally

from .records import rewards


def test_by_hand() -> None:
    """Two bins: (0.2, 0.4) with outcomes (0, 1), and 0.9 with outcome 1."""
    found = calibration_error([0, 1, 1], [0.2, 0.4, 0.9], n_bins=2)
    assert found == pytest.approx({"ECE": (0.4 + 0.1) / 3, "ACE": (0.2 + 0.1) / 2, "MCE": 0.2})


@pytest.mark.parametrize(("value", "lower"), [(0.5, True), (0.5000001, False), (0.3, True), (0.0, True), (1.0, False)])
def test_edges_belong_to_the_lower_bin(value: float, lower: bool) -> None:
    """The other bin holds a value that is right, so that ACE tells where this one went."""
    with_low = calibration_error([1, 0], [value, 0.1], n_bins=2)["ACE"]
    apart = (abs(1 - value) + 0.1) / 2
    together = abs(value + 0.1 - 1) / 2
    assert with_low == pytest.approx(together if lower else apart)


def test_quantile_bins_have_equally_many() -> None:
    probabilities = [0.01, 0.02, 0.03, 0.04, 0.9, 0.91]
    found = calibration_error([0] * 6, probabilities, n_bins=3, strategy="quantile")
    assert found["MCE"] == pytest.approx((0.9 + 0.91) / 2)
    assert found["ACE"] == pytest.approx((0.015 + 0.035 + 0.905) / 3)


def test_unknown_strategy() -> None:
    with pytest.raises(ValueError, match="uniform or quantile"):
        calibration_error([1], [0.5], strategy="width")


def test_parts_add_up_to_the_whole() -> None:
    """Measured in three batches on two ranks, one of which has nothing."""
    record, args = rewards(9, 4), ApoRmArgs(calibration_bins=[5, 10])

    def part(one: slice) -> dict:
        fields = {f.name: getattr(record, f.name)[one] for f in dc.fields(record)}
        return measure(dc.replace(record, **fields), args)

    tally = Tally()
    for one in (slice(0, 2), slice(2, 3), slice(3, None)):
        tally.add(part(one))
    names = list(tally.sums)
    empty = torch.zeros(1, len(names), 2, dtype=torch.double)
    added = tally.totals(names, "cpu", lambda own: torch.cat([empty, own]))
    whole = {name: (total.item(), count.item()) for name, (total, count) in part(slice(None)).items()}
    assert summarise(added, args) == pytest.approx(summarise(whole, args), rel=1e-12)
    assert set(summarise({}, args).values()) == {0.0}
    assert sum(count for _, _, count in as_bins(whole)[5]) == sum(count for _, _, count in as_bins(whole)[10]) > 0


def test_both_orders_of_a_pair_make_it_symmetric() -> None:
    record = rewards(5, 3)
    sums = {name: (p.item(), n.item()) for name, (p, n) in measure(record, ApoRmArgs()).items()}
    (bins,) = as_bins(sums).values()
    for (p, y, n), (q, z, m) in zip(bins, reversed(bins), strict=True):
        assert (n - p, n - y, n) == pytest.approx((q, z, m))
    assert errors(bins)["ECE"] > 0


def test_scores_lie_between_zero_and_one() -> None:
    """Even negative ones, so that -1 can mean an answer that is not there; order and equality stay."""
    scaled = normalised_scores((-3.0, 5.0, -3.0, 1.0))
    assert all(0 < one < 1 for one in scaled)
    assert scaled[0] == scaled[2] < scaled[3] < scaled[1]
    assert scaled[0] == pytest.approx(1e-5 / (8 + 2e-5), rel=1e-12)
    assert normalised_scores((7.0, 7.0)) == (0.5, 0.5)
    assert normalised_scores(()) == ()


@dc.dataclass
class Item:
    prompt_id: str
    mark: str = "apo"
    scores: tuple[float, ...] = (1.0, 0.0)


@pytest.mark.parametrize(
    ("rows", "number"),
    [
        ([Item("a")] * 4 + [Item("b")] * 4 + [Item("c")], 4),
        ([Item("a"), Item("a"), Item("b", mark="")] * 2, 4),
        ([Item(""), Item("")], 1),
        ([Item("a", mark="")], None),
    ],
)
def test_samples_are_counted_in_the_data(rows: list[Item], number: int | None) -> None:
    """The usual number of adversarial items of a prompt, unless a flag says it."""
    assert derive(rows, ApoRmArgs()) == ({} if number is None else {"apo_sample_num": number})
    assert derive(rows, ApoRmArgs(apo_sample_num=3)) == {}
