"""Rows of data that does not fit into memory, while it is read."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from swiftlike.core.errors import UserError
from swiftlike.data.check import Pictures
from swiftlike.data.convert import Converter, refuse_bad_rows
from swiftlike.data.load import max_bytes, refuse_chances, sources_of
from swiftlike.data.report import Report
from swiftlike.datasets_registry.row import Row

Item = TypeVar("Item")


def stream_rows(data: Any, kind: str, seed: int, report: Report | None = None, hub: str = "hf") -> Iterator[Row]:
    """Checked rows of `kind`, one pass. `#N` takes the first N records of a set.

    Rows are shuffled within a buffer of `data.shuffle_buffer_size`, seeded, unless `data.dataset_shuffle` is off. A
    bad row ends the stream with a UserError, or is counted in `report` with on_bad_row=drop. Nothing is held out: give
    `--val_dataset`. The caller ends training after --max_steps and starts a new pass with another seed when needed.
    """
    seed = seed if data.dataset_seed is None else data.dataset_seed
    report = Report() if report is None else report
    pictures = Pictures(max_bytes=max_bytes(data))
    converters = [Converter(source, kind, pictures, data.image_root) for source in sources_of(data, data.dataset, hub)]
    report.datasets.extend(converter.report for converter in converters)
    drop = data.on_bad_row == "drop"
    if data.interleave_prob:
        refuse_chances(data.interleave_prob, len(converters))
        streams = [_Restarted(converter, drop) for converter in converters]
        rows = _interleaved(streams, data.interleave_prob, data.stopping_strategy, random.Random(seed))
    else:
        rows = itertools.chain.from_iterable(_rows(converter, drop) for converter in converters)
    return shuffled(rows, data.shuffle_buffer_size, random.Random(seed)) if data.dataset_shuffle else rows


def _rows(converter: Converter, drop: bool) -> Iterator[Row]:
    for record, origin in itertools.islice(converter.source.stream(), converter.source.wanted.count):
        converter.report.found += 1
        found = converter.rows(record, origin)
        if not found and not drop:
            if converter.report.found == 1:
                converter.refuse_unusable()
            refuse_bad_rows(converter.report.problems)
        converter.report.train += len(found)
        yield from found
    converter.refuse_unusable()


class _Restarted:
    """The rows of one set, from the start again when they are used up."""

    def __init__(self, converter: Converter, drop: bool) -> None:
        self.converter, self.drop = converter, drop
        self.rows = _rows(converter, drop)
        self.used_up = False

    def next(self) -> Row | None:
        """The next row, None when a pass is over for the first time."""
        row = next(self.rows, None)
        if row is None:
            if not self.converter.report.train:
                raise UserError(f"{self.converter.source.name} has no rows to draw from")
            self.used_up = True
            self.rows = _rows(self.converter, self.drop)
        return row


def _interleaved(
    streams: Sequence[_Restarted], chances: Sequence[float], stopping: str, generator: random.Random
) -> Iterator[Row]:
    drawable = [stream for stream, chance in zip(streams, chances, strict=True) if chance > 0]
    while True:
        (stream,) = generator.choices(streams, weights=chances)
        row = stream.next()
        if row is not None:
            yield row
        elif stopping == "first_exhausted" or all(one.used_up for one in drawable):
            return


def shuffled(items: Iterator[Item], size: int, generator: random.Random) -> Iterator[Item]:
    """Items in an order that is random within a buffer of `size`."""
    buffer = list(itertools.islice(items, size))
    for item in items:
        place = generator.randrange(len(buffer))
        yield buffer[place]
        buffer[place] = item
    generator.shuffle(buffer)
    yield from buffer
