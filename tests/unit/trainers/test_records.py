"""From a batch's numbers to what an objective reads, and metrics that add up exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from swiftlike.losses.base import GroupLogps, LabelledLogps
from swiftlike.trainers.records import RECORDS, Tally, computed, group_record, labelled_record, only


def batch(rows: int = 3, columns: int = 2) -> dict[str, Any]:
    return {
        "tokens": torch.arange(1, rows * columns + 1).view(rows, columns),
        "present": torch.ones(rows, columns, dtype=torch.bool),
        "real": torch.tensor([True] * (rows - 1) + [False]),
        "label": torch.tensor([True, False, True][:rows]),
    }


def logps(rows: int = 3, columns: int = 2) -> dict[str, torch.Tensor]:
    return {"policy": -torch.arange(10.0, 10 + rows * columns).view(rows, columns).requires_grad_()}


def test_every_kind_of_record_has_a_maker() -> None:
    from swiftlike.losses import LOSSES

    assert {card.record for card in LOSSES} <= RECORDS.keys()


def test_group() -> None:
    made, values, reference = batch(), logps(), torch.zeros(3, 2)
    record = group_record(values, reference, made, torch.mean)
    assert isinstance(record, GroupLogps)
    assert record.policy is values["policy"]
    assert record.tokens is made["tokens"]
    assert record.reference is reference
    assert (record.scores, record.margin, record.prompt_nll) == (None, None, None)
    extra = {"scores": torch.ones(3, 2), "margin": torch.ones(3)}
    prompt = {"prompt_nll": torch.ones(3), "prompt_tokens": torch.ones(3)}
    full = group_record(values | prompt, None, made | extra, torch.mean)
    assert full.scores is extra["scores"]
    assert full.margin is extra["margin"]
    assert full.prompt_nll is prompt["prompt_nll"]


def test_labelled() -> None:
    """Column 0 is judged; column 1 estimates the KL term, over real rows and all ranks, without gradient."""
    asked = []

    def mean(values: torch.Tensor) -> torch.Tensor:
        asked.append(values)
        return values.mean()

    made, values = batch(), logps()
    reference = torch.tensor([[-9.0, -10.0], [-11.0, -12.0], [0.0, 1e9]])
    record = labelled_record(values, reference, made, mean)
    assert isinstance(record, LabelledLogps)
    assert record.policy.tolist() == [-10, -12, -14]
    assert record.reference.tolist() == [-9, -11, 0]
    assert record.tokens.tolist() == [1, 3, 5]
    assert record.desirable.tolist() == [True, False, True]
    assert asked[0].tolist() == [-1, -1]  # the filler row is not in it
    assert record.kl == -1
    assert not record.kl.requires_grad
    assert record.policy.requires_grad
    with pytest.raises(ValueError, match="reference"):
        labelled_record(values, None, made, mean)


@pytest.mark.parametrize("kind", ["group", "labelled"])
def test_only_real_rows(kind: str) -> None:
    record = RECORDS[kind](logps(), torch.zeros(3, 2), batch(), torch.mean)
    assert only(record, torch.tensor([True] * 3)) is record
    kept = only(record, torch.tensor([True, False, True]))
    assert type(kept) is type(record)
    for name in ("policy", "tokens", "reference"):
        assert torch.equal(getattr(kept, name), getattr(record, name)[[0, 2]])
    if kind == "labelled":
        assert kept.kl is record.kl
        assert kept.desirable.tolist() == [True, True]
    else:
        assert kept.scores is None
        assert torch.equal(kept.present, record.present[[0, 2]])


# -- metrics ---------------------------------------------------------------------------------------------------------


def pair(total: float, count: float) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(total), torch.tensor(count)


def alone(tally: Tally) -> dict[str, float]:
    """Means of a single rank."""
    return tally.means(sorted(tally.sums), "cpu", lambda table: table)


def test_means_over_micro_batches_weigh_by_count() -> None:
    tally = Tally()
    tally.add({"a": pair(6.0, 3), "empty": pair(0.0, 0)})
    tally.add({"a": pair(2.0, 1), "b": pair(5.0, 2)})
    assert alone(tally) == {"a": 2.0, "b": 2.5}
    tally.clear()
    assert alone(tally) == {}


def test_means_over_ranks() -> None:
    """A rank that had only filler has no metrics of its own, and still takes part."""
    busy, idle = Tally(), Tally()
    busy.add({"a": pair(6.0, 3), "b": pair(1.0, 1)})
    tables = []
    names = ["a", "b"]
    idle.means(names, "cpu", lambda table: tables.append(table) or table)
    assert tables[0].tolist() == [[[0, 0], [0, 0]]]
    other = torch.tensor([[[4.0, 2.0], [0, 0]]])
    assert busy.means(names, "cpu", lambda table: torch.cat([table, other])) == {"a": 2.0, "b": 1.0}


def test_extremes_are_not_averaged() -> None:
    """The lowest and highest over micro-batches and ranks; a rank without one does not count as zero."""
    tally = Tally()
    tally.add({"min_reward": pair(-1.0, 1), "max_reward": pair(-0.5, 1)})
    tally.add({"min_reward": pair(-3.0, 1), "max_reward": pair(-2.0, 1)})
    assert alone(tally) == {"min_reward": -3.0, "max_reward": -0.5}
    names, idle = sorted(tally.sums), torch.zeros(1, 2, 2, dtype=torch.double)
    other = torch.tensor([[[-0.25, 1.0], [-4.0, 1.0]]], dtype=torch.double)  # max, min
    assert tally.means(names, "cpu", lambda table: torch.cat([table, idle, other])) == {
        "min_reward": -4.0,
        "max_reward": -0.25,
    }


@pytest.mark.parametrize(
    ("told_by", "tokens"),
    [
        ({"segments": torch.tensor([[0, 0, 1, 2], [0, 1, -1, -1]])}, 6),
        ({"attention_mask": torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])}, 5),
        ({}, 8),  # rows end to end, told apart by their positions
    ],
)
def test_padding_is_counted(told_by: dict[str, torch.Tensor], tokens: int) -> None:
    assert computed({"input_ids": torch.zeros(2, 4), **told_by}).tolist() == [tokens, 8]


def test_margins_of_classes() -> None:
    tally = Tally()
    tally.add({"rewards/chosen": pair(3.0, 1), "rewards/rejected": pair(0.0, 0)})
    assert "rewards/margins" not in alone(tally)
    tally.add({"rewards/chosen": pair(0.0, 0), "rewards/rejected": pair(4.0, 2)})
    assert alone(tally)["rewards/margins"] == 1.0


def test_sums_are_exact_and_without_graph() -> None:
    tally, weight = Tally(), torch.ones((), requires_grad=True)
    for _ in range(1000):
        tally.add({"a": (weight * (1 + 1e-4), torch.tensor(1))})
    assert not tally.sums["a"].requires_grad
    assert alone(tally)["a"] == pytest.approx(float(torch.tensor(1 + 1e-4)), abs=1e-12)
