"""Which groups are computed together: the same groups per optimiser step as plain shuffling, with less padding."""

from __future__ import annotations

import dataclasses as dc
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from swiftlike.data.collate import Item
from swiftlike.data.packed import Packed
from swiftlike.data.packing import Places
from swiftlike.data.vision import Pixels
from swiftlike.datasets_registry.row import Image


class Pick(NamedTuple):
    """What the sampler asks the data set for."""

    index: int
    partner: int | None = None
    real: bool = True


@dc.dataclass(frozen=True)
class Groups(Dataset[Item]):
    """Encoded groups; pictures are decoded when a group is asked for (in the loader's workers)."""

    groups: Packed
    pixels: Callable[[Image], Pixels] | None = None

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, pick: Pick) -> Item:
        group = self.groups[pick.index]
        pictures = tuple(self.pixels(image) for image in group.images) if self.pixels else ()
        partner = None if pick.partner is None else self.groups[pick.partner]
        return Item(group, pictures, partner, pick.real)


class GroupSampler(Sampler[Pick]):
    """Order of one epoch: shuffled by (seed, epoch), then sorted by length inside every optimiser step.

    `per_step` groups make one optimiser step over all ranks and accumulation, `per_round` one micro-batch of all
    ranks; consecutive picks form batches, and batch i goes to rank i modulo ranks. Which groups a step sees does not
    depend on how it is split. Over several ranks the end is filled up to whole rounds with groups that count nowhere.
    With `partners`, every group is paired with the one before it in the shuffled order (KTO's KL estimate).
    """

    def __init__(  # noqa: PLR0913 - facts of a run, by keyword
        self,
        lengths: Sequence[int] | Places,
        *,
        per_step: int,
        per_round: int,
        ranks: int = 1,
        seed: int = 42,
        shuffle: bool = True,
        partners: bool = False,
    ) -> None:
        self.lengths = np.asarray(lengths, np.int64)
        self.per_step, self.per_round, self.ranks = per_step, per_round, ranks
        self.seed, self.shuffle, self.partners, self.epoch = seed, shuffle, partners, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is wanted."""
        self.epoch = epoch

    @property
    def filler(self) -> int:
        """Groups added so that all ranks get equally many batches."""
        return -len(self.lengths) % self.per_round if self.ranks > 1 else 0

    def __len__(self) -> int:
        return len(self.lengths) + self.filler

    def __iter__(self) -> Iterator[Pick]:
        n = len(self.lengths)
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(n, generator=generator).numpy() if self.shuffle else np.arange(n)
        before = np.roll(order, 1)
        picks = functools.partial(self._picks, order, before)
        for start in range(0, n, self.per_step):
            sizes = self.lengths[order[start : start + self.per_step]]
            yield from picks(start + np.argsort(-sizes, kind="stable"))
        for i in range(self.filler):
            (pick,) = picks(np.array([i % n]))
            yield pick._replace(real=False)

    def _picks(self, order: Places, before: Places, places: Places) -> Iterator[Pick]:
        """What stands at some places of an epoch's order."""
        partners = before[places].tolist() if self.partners else itertools.repeat(None)
        return itertools.starmap(Pick, zip(order[places].tolist(), partners, strict=False))
