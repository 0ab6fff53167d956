"""Which groups a step sees, and that it does not depend on how the step is split over ranks and accumulation."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler

from swiftlike.data.bucketing import Groups, GroupSampler, Pick
from swiftlike.data.encode import Encoded, Span
from swiftlike.data.packed import Packed
from swiftlike.datasets_registry.row import Image

STEP = 8
SPLITS = [(8, 1, 1), (1, 1, 8), (2, 4, 1), (2, 2, 2), (4, 2, 1), (1, 8, 1), (2, 1, 4)]  # batch, ranks, accumulation
SIZES = [1, 5, 8, 16, 21, 40]


def lengths(n: int) -> list[int]:
    chance = random.Random(n)
    return [chance.randint(5, 90) for _ in range(n)]


def sampler(n: int, batch: int = 8, ranks: int = 1, **more: Any) -> GroupSampler:
    return GroupSampler(lengths(n), per_step=STEP, per_round=batch * ranks, ranks=ranks, **more)


def rounds(n: int, batch: int, ranks: int, epoch: int = 0) -> list[list[list[Pick]]]:
    """[round][rank] -> picks of that rank's batch, as accelerate deals them out."""
    order = sampler(n, batch, ranks)
    order.set_epoch(epoch)
    if ranks == 1:  # accelerate leaves the sampler of a single process as it is
        return [[part] for part in BatchSampler(order, batch, drop_last=False)]
    shards = [
        list(BatchSamplerShard(BatchSampler(order, batch, drop_last=False), ranks, r, even_batches=True))
        for r in range(ranks)
    ]
    assert len({len(shard) for shard in shards}) == 1  # no rank waits for another
    return [list(one) for one in zip(*shards, strict=True)]


def steps(n: int, batch: int, ranks: int, accumulation: int) -> list[set[int]]:
    """Groups that count in each optimiser step."""
    dealt = rounds(n, batch, ranks)
    chunks = [dealt[i : i + accumulation] for i in range(0, len(dealt), accumulation)]
    return [{pick.index for one in chunk for part in one for pick in part if pick.real} for chunk in chunks]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(("batch", "ranks", "accumulation"), SPLITS)
def test_a_step_sees_the_same_groups_however_it_is_split(batch: int, ranks: int, accumulation: int, n: int) -> None:
    assert steps(n, batch, ranks, accumulation) == steps(n, STEP, 1, 1)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(("batch", "ranks", "_"), SPLITS)
def test_every_group_once_and_filler_counts_nowhere(batch: int, ranks: int, _: int, n: int) -> None:
    dealt = [pick for one in rounds(n, batch, ranks) for part in one for pick in part]
    assert Counter(pick.index for pick in dealt if pick.real) == Counter(range(n))
    order = sampler(n, batch, ranks)
    assert len(list(order)) == len(order) == len(dealt)
    assert len(order) - n == order.filler == sum(not pick.real for pick in dealt)
    assert order.filler < batch * ranks
    assert ranks > 1 or order.filler == 0


def test_shuffling_depends_on_seed_and_epoch_only() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        made = sampler(40, seed=seed)
        made.set_epoch(epoch)
        return [pick.index for pick in made]

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (1, 20) for epoch in (0, 1, 2)}) == 6


def test_without_shuffling_the_order_of_the_file() -> None:
    made = sampler(20, shuffle=False)
    found = [pick.index for pick in made]
    assert [set(found[i : i + STEP]) for i in range(0, 20, STEP)] == [
        set(range(i, min(i + STEP, 20))) for i in (0, 8, 16)
    ]
    made.set_epoch(1)
    assert [pick.index for pick in made] == found


def test_less_padding_than_plain_shuffling() -> None:
    def padding(order: list[int], batch: int = 2) -> int:
        sizes = lengths(400)
        parts = [[sizes[i] for i in order[at : at + batch]] for at in range(0, 400, batch)]
        return sum(max(part) * len(part) - sum(part) for part in parts)

    sorted_inside = [pick.index for pick in GroupSampler(lengths(400), per_step=16, per_round=2)]
    plain = [pick.index for pick in GroupSampler(lengths(400), per_step=1, per_round=2)]
    assert padding(sorted_inside) < padding(plain) / 4


@pytest.mark.parametrize("n", [2, 3, 21, 40])
@pytest.mark.parametrize("ranks", [1, 4])
def test_partners(n: int, ranks: int) -> None:
    """KTO: everyone lends its completion once and borrows one, never its own."""
    for epoch in range(3):
        order = sampler(n, 2, ranks, partners=True)
        order.set_epoch(epoch)
        picks = list(order)
        assert all(pick.partner not in (None, pick.index) for pick in picks)
        assert Counter(pick.partner for pick in picks if pick.real) == Counter(range(n))
    assert all(pick.partner is None for pick in sampler(n))


def test_pictures_are_made_when_a_group_is_asked_for() -> None:
    one = Span(np.array([1], np.int32), np.array([True]))
    groups = [Encoded(one, (one,), (Image(f"{i}a"), Image(f"{i}b"))) for i in range(3)]
    asked = []

    def pixels(image: Image) -> Any:
        asked.append(image.source)
        return {"of": image.source}

    data = Groups(Packed.of(groups), pixels)
    assert (len(data), asked) == (3, [])
    item = data[Pick(1, partner=2, real=False)]
    assert asked == ["1a", "1b"]
    assert [one["of"] for one in item.pictures] == ["1a", "1b"]
    assert (item.group, item.partner, item.real) == (groups[1], groups[2], False)
    assert Groups(Packed.of(groups))[Pick(0)].pictures == ()
