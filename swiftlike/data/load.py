"""`--dataset` to rows: sampling, splitting off validation rows, mixing.

`#N` draws from raw records, so that a sample of ten costs ten rows of work; the drawn records are then read and
checked, and those that turn out bad are reported, not replaced. Each data set has a generator of its own, so adding one
does not change what is drawn from the others.
"""

from __future__ import annotations

import dataclasses as dc
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from swiftlike.core.errors import UserError, suggestion
from swiftlike.data.check import Pictures
from swiftlike.data.convert import Converter, refuse_bad_rows
from swiftlike.data.report import Report
from swiftlike.data.seen import Seen
from swiftlike.data.sources import Source, open_source
from swiftlike.data.tables import Table
from swiftlike.datasets_registry.custom import register
from swiftlike.datasets_registry.row import Row
from swiftlike.datasets_registry.syntax import parse_all

Item = TypeVar("Item")
# (converter, table, places to train on, places to validate on) -> what stands for the rows there, in this order
Reader = Callable[[Converter, Table, Sequence[int], Sequence[int]], tuple[list[Item], list[Item]]]


@dc.dataclass(frozen=True)
class Loaded:
    """Rows to train and to validate on, and the account of how they came about."""

    train: list[Row]
    val: list[Row]
    report: Report


def load_rows(data: Any, kind: str, seed: int, hub: str = "hf") -> Loaded:
    """Rows of `kind` (completion, pair, labelled, ranked) from `data` (a DataArgs), read and checked.

    `hub` ("hf" or "ms") has the ids that name no hub themselves. Deterministic in (data, kind, seed). UserError that
    lists `file:line: reason` when a row is bad and `data.on_bad_row` is "error", when a set has no usable format, or
    when nothing is left to train on.
    """
    train, val, report = gather(data, kind, seed, hub, read_rows)
    seen = Seen()
    for row in train:
        seen.add(row)
    seen.enter(report, lambda place: train[place].origin)
    return Loaded(train, val, report)


def gather(data: Any, kind: str, seed: int, hub: str, read: Reader[Item]) -> tuple[list[Item], list[Item], Report]:
    """What `read` makes of every data set, drawn, split, mixed and bounded: to train on, to validate on, the account.
    UserError as in `load_rows`."""
    seed = seed if data.dataset_seed is None else data.dataset_seed
    report = Report()
    pictures = Pictures(max_bytes=max_bytes(data))
    ratio = held_out(data)

    def converters(items: Sequence[str]) -> list[Converter]:
        return [Converter(source, kind, pictures, data.image_root) for source in sources_of(data, items, hub)]

    parts = [load_source(one, ratio, seed, read) for one in _reported(converters(data.dataset), report, data.columns)]
    held = [load_source(one, 1.0, seed, read) for one in _reported(converters(data.val_dataset), report, data.columns)]
    if data.on_bad_row == "error":
        refuse_bad_rows(report.problems)
    train = mix([rows for rows, _ in parts], data.interleave_prob, data.stopping_strategy, seed)
    val = [row for _, rows in (*parts, *held) for row in rows]
    train = capped(train, data.train_dataset_sample, seed)
    val = capped(val, data.val_dataset_sample, seed)
    if data.dataset and not train and ratio < 1:
        raise UserError(
            "no rows are left to train on", problems=[line for one in report.datasets for line in one.as_lines()]
        )
    report.pictures.update(pictures.sizes.values())
    return train, val, report


def held_out(data: Any) -> float:
    """The share of `data.dataset` that is validated on."""
    return 0.0 if data.val_dataset else data.dataset_test_ratio


def max_bytes(data: Any) -> int:
    """The largest picture file that the arguments allow."""
    return int(data.max_image_size_mb * 2**20)


def sources_of(data: Any, items: Sequence[str], hub: str = "hf") -> list[Source]:
    """Every data set that the items name, after the user's own sets are registered."""
    register(data.custom_dataset_info)
    return [open_source(wanted, data.columns, hub) for wanted in parse_all(items)]


def _reported(converters: Sequence[Converter], report: Report, columns: Mapping[str, str]) -> Iterator[Converter]:
    """Each converter in turn; once its records are read, a UserError when none of them was usable."""
    for converter in converters:
        report.datasets.append(converter.report)
        yield converter
        converter.refuse_unusable()
    refuse_unknown_columns(columns, converters)


def refuse_unknown_columns(columns: Mapping[str, str], converters: Sequence[Converter]) -> None:
    """UserError for a column of `--columns` that no record has."""
    met = {name for converter in converters for name in converter.renamed}
    used = any(columns.keys() <= converter.source.columns.keys() for converter in converters)
    for name in columns if used else ():
        if name not in met:
            seen = {theirs for one in converters for mapping in one.report.mappings for theirs in mapping.columns}
            raise UserError(f"--columns: no record has a column {name!r}{suggestion(name, seen)}")


def load_source(converter: Converter, ratio: float, seed: int, read: Reader[Item]) -> tuple[list[Item], list[Item]]:
    """What `read` makes of one data set to train and to validate on, with the account of it in the converter's
    report."""
    table = converter.source.table()
    report = converter.report
    report.found = len(table)
    wanted = converter.source.wanted.count
    if ratio >= 1 and wanted is not None and wanted > len(table):
        raise UserError(f"{report.name}#{wanted}: validation rows are not repeated; there are {len(table)}")
    train, val = draw(len(table), wanted, ratio, random.Random(seed))
    if 0 < ratio < 1 and not val and len(table) == 1:
        report.notes.append("nothing held out to validate on: there is only one row")
    report.repeated = len(train) - len(set(train))
    trained, held = read(converter, table, train, val)
    report.train, report.val = len(trained), len(held)
    return trained, held


def read_rows(
    converter: Converter, table: Table, train: Sequence[int], val: Sequence[int]
) -> tuple[list[Row], list[Row]]:
    """The rows at places of a table, in memory. Each record is read once, however often it is drawn."""
    known: dict[int, tuple[Row, ...]] = {}
    for place in (*train, *val):
        if place not in known:
            known[place] = converter.rows(*table[place])
    return [row for place in train for row in known[place]], [row for place in val for row in known[place]]


def draw(length: int, count: int | None, ratio: float, generator: random.Random) -> tuple[list[int], list[int]]:
    """Places of (train, val) rows among `length`, as ms-swift splits and samples.

    Validation rows are drawn first: max(int(min(length, count) * ratio), 1) of them, none at ratio 0, all at ratio 1.
    The rest is brought to `count` less those: the first of a permutation when there are more, whole repeats in order
    and then a random remainder when there are fewer. A single row is kept for training.
    """
    wanted = length if count is None else count
    if ratio >= 1:
        return [], _sample(list(range(length)), wanted, generator)
    held = max(int(min(length, wanted) * ratio), 1) if ratio > 0 and min(length, wanted) > 1 else 0
    order = generator.sample(range(length), length) if held else []
    val = order[:held]
    rest = sorted(order[held:]) if held else list(range(length))
    return _sample(rest, wanted - held, generator), val


def _sample(places: list[int], count: int, generator: random.Random) -> list[int]:
    if count == len(places) or not places:
        return places
    return places * (count // len(places)) + generator.sample(places, len(places))[: count % len(places)]


def mix(parts: Sequence[list[Item]], chances: Sequence[float], stopping: str, seed: int) -> list[Item]:
    """The parts one after another, or drawn from with these chances until one is used up (or every one has been)."""
    if not chances:
        return [item for part in parts for item in part]
    refuse_chances(chances, len(parts))
    if any(not part for part in parts):
        raise UserError("--interleave_prob: a data set has no rows to draw from")
    generator = random.Random(seed)
    mixed: list[Item] = []
    places = [0] * len(parts)
    used_up: set[int] = set()
    drawable = {k for k, chance in enumerate(chances) if chance > 0}
    while True:
        (k,) = generator.choices(range(len(parts)), weights=chances)
        mixed.append(parts[k][places[k] % len(parts[k])])
        places[k] += 1
        if places[k] >= len(parts[k]):
            used_up.add(k)
        if used_up and (stopping == "first_exhausted" or used_up == drawable):
            return mixed


def refuse_chances(chances: Sequence[float], count: int) -> None:
    """UserError when the chances do not fit the data sets or do not sum to 1."""
    if len(chances) != count:
        raise UserError(f"--interleave_prob has {len(chances)} numbers for {count} data sets")
    if min(chances) < 0 or abs(sum(chances) - 1) > 1e-6:
        raise UserError(f"--interleave_prob: the numbers are chances and sum to 1, not {sum(chances):g}")


def capped(rows: list[Item], most: int, seed: int) -> list[Item]:
    """At most that many rows (-1: all), drawn at random, in their order."""
    if most < 0 or len(rows) <= most:
        return rows
    kept = sorted(random.Random(seed).sample(range(len(rows)), most))
    return [rows[place] for place in kept]
