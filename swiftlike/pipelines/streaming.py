"""Training on data that is read while it is used: rows are checked and encoded on the way to the trainer."""

from __future__ import annotations

import dataclasses as dc
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import IterableDataset

from swiftlike.core.errors import UserError
from swiftlike.core.log import get_logger
from swiftlike.core.merge import Run
from swiftlike.data.collate import Item
from swiftlike.data.encode import Encoded, Encoder
from swiftlike.data.report import Report
from swiftlike.data.stream import stream_rows
from swiftlike.data.vision import Pixels
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import Image, Row
from swiftlike.losses.base import LossCard

log = get_logger(__name__)


@dc.dataclass
class Streamed(IterableDataset[Item]):
    """Groups of a stream, pass after pass, each shuffled anew within the buffer. There is no end but --max_steps.

    All ranks read the same order and take turns. A row that cannot be encoded ends the run, or is left out and said, as
    `--on_bad_row` has it.
    """

    run: Run
    card: LossCard
    encode: Encoder
    pixels: Callable[[Image], Pixels] | None

    def __iter__(self) -> Iterator[Item]:
        for number in itertools.count():
            yield from self.one_pass(number)

    def one_pass(self, number: int = 0) -> Iterator[Item]:
        """Every row once. UserError when nothing comes: the next pass would bring nothing either."""
        seed = self.run.data.dataset_seed + number
        data = dc.replace(self.run.data, dataset_seed=seed)
        hub = "hf" if self.run.model.use_hf else "ms"
        before: Encoded | None = None
        empty = True
        report = Report()
        rows = stream_rows(data, self.card.data, seed, report, hub=hub)
        for group in self._groups(_watched(rows, report, said=number > 0)):
            if self.card.record != "labelled":
                yield self._item(group, None)
            elif before is not None:  # the first row only lends its completion
                yield self._item(group, before)
            empty, before = empty and self.card.record == "labelled" and before is None, group
        if empty:
            raise UserError("the stream has no row that can be trained on")

    def _groups(self, rows: Iterator[Row]) -> Iterator[Encoded]:
        for row in rows:
            try:
                yield self.encode(row)
            except BadRow as error:
                if self.run.data.on_bad_row == "error" and self.run.data.truncation_strategy != "delete":
                    raise UserError(
                        f"{row.origin}: {error}", hint="leave such rows out with --on_bad_row drop"
                    ) from error
                log.warning("left out %s: %s", row.origin, error)

    def _item(self, group: Encoded, partner: Encoded | None) -> Item:
        pictures: tuple[Any, ...] = tuple(self.pixels(image) for image in group.images) if self.pixels else ()
        return Item(group, pictures, partner)


def _watched(rows: Iterator[Row], report: Report, said: bool) -> Iterator[Row]:
    """The rows; what was recognised, and the first row of every kind that is left out, are said as they are met."""
    kinds: set[tuple[str, str]] = set()
    for row in rows:
        for one in report.datasets if not said else ():
            for line in one.as_lines()[1:2] if not kinds & {(one.name, "")} else ():
                log.info("%s: %s", one.name, line.strip())
            kinds.add((one.name, ""))
            for kind in [kind for kind in one.bad.counts if (one.name, kind) not in kinds]:
                log.warning("left out %s; further ones are only counted", one.bad.examples[kind])
                kinds.add((one.name, kind))
        yield row
    for one in report.datasets:
        if one.bad.counts:
            log.warning("%s: %d rows left out in this pass: %s", one.name, one.bad.counts.total(), one.bad.as_text())
