"""Records of one format to records of another, with account of everything that is not carried over."""

from __future__ import annotations

import dataclasses as dc
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.data.check import Pictures
from swiftlike.data.convert import Converter, refuse_bad_rows
from swiftlike.data.files import Records
from swiftlike.data.load import draw
from swiftlike.data.media import is_file
from swiftlike.data.sources import Source
from swiftlike.datasets_registry.apo import best_of_n, comparison_items, read_scores
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.formats import ANY, GENERATED, Format, fitted, format_of, lost, read_as, spoken
from swiftlike.datasets_registry.kinds import LeftOut
from swiftlike.datasets_registry.readers import query_of, scored_sample
from swiftlike.datasets_registry.row import Image, Row, Turns
from swiftlike.datasets_registry.shapes import to_row
from swiftlike.datasets_registry.turns import text_of
from swiftlike.pipelines.convert_plan import Order

Record = dict[str, Any]

_SHOWN = 5  # layouts of one source that are named


class SecondInput:
    """What all sources of a conversion share: samples or scores that stand in files of their own (held in memory),
    pictures that were looked at, and the number of the next row."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.pictures = Pictures()
        self.number = 0
        self.chance = random.Random(order.args.seed) if order.args.sampling else None
        self.scores: dict[str, dict[str, float]] = {}
        self.samples: dict[str, list[str]] = {}
        self.met: set[str] = set()
        _each(order, order.args.scores, self._take_scores)
        _each(order, order.args.samples, self._take_samples)

    def _take_scores(self, record: Record) -> None:
        for key, score in record.items():
            if isinstance(score, bool) or not isinstance(score, int | float):
                raise BadRow("not a score", f"{key} is {score!r}")
        for query_id, scores in read_scores([record]).items():
            self.scores.setdefault(query_id, {}).update(scores)

    def _take_samples(self, record: Record) -> None:
        self.samples.setdefault(_id(record), _samples(record))

    def compared(self, record: Record) -> list[Record]:
        """The golden answer of a record against the samples of its query, or those that stand beside it."""
        query_id = _id(record)
        self.met.add(query_id)
        samples = _samples(record) or self.samples.get(query_id, [])
        if not samples:
            raise LeftOut("no samples for the query")
        items = comparison_items(query_of(record), text_of(record["golden"], "golden"), samples, self.chance)
        return [{**item, "query_id": query_id} for item in items]

    def chosen(self, record: Record) -> list[Record]:
        """A sample row with its best answer as `target`, as APO's reject sampling writes it."""
        scores = self.scores_of(record)
        best = best_of_n(record, scores)
        if best is None:
            raise LeftOut("no answer that is scored and not blank")
        return [{**record, "target": best[1], "scores": scores}]

    def scores_of(self, record: Record) -> dict[str, float]:
        """The scores of a sample row by column."""
        query_id = _id(record)
        self.met.add(query_id)
        if query_id not in self.scores:
            raise LeftOut("no scores for the query")
        return self.scores[query_id]

    def as_lines(self) -> list[str]:
        """What of the second input found no partner."""
        unused = [one for one in (*self.samples, *self.scores) if one not in self.met]
        what = "samples" if self.samples else "scores"
        return [f"{what} of {len(unused)} queries found no partner (first: query_id {unused[0]})"] if unused else []


def _each(order: Order, words: list[str], take: Callable[[Record], None]) -> None:
    """Read a second input whole. UserError at the first record that cannot be used."""
    for source in order.opened(words):
        for record, origin in source.stream():
            try:
                if isinstance(record, BadRow):
                    raise record
                take(record)
            except BadRow as error:
                raise UserError(f"{origin}: {error}") from error


def _id(record: Record) -> str:
    if record.get("query_id") is None:
        raise BadRow("no query_id", f"its columns are {', '.join(map(str, record))}")
    return str(record["query_id"])


def _samples(record: Record) -> list[str]:
    return [text for key, text in record.items() if key.startswith("sample_") and isinstance(text, str)]


class Conversion:
    """The records of one source in the target's format; iterating reads the source. `lost` counts rows by what of them
    the target has no place for."""

    def __init__(self, source: Source, folder: Path, second: SecondInput) -> None:
        self.source, self.folder, self.second, self.order = source, folder, second, second.order
        card = source.wanted.card
        self.card_reads = card is not None and card.to_row is not None
        # a record is renamed before its format is looked for, so not once more behind that
        behind = source if self.card_reads else dc.replace(source, columns={})
        self.converter = Converter(behind, "auto", second.pictures, self.order.args.image_root)
        self.report = self.converter.report
        self.lost: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Record]:
        for record, origin in self._records():
            self.report.found += 1
            try:
                if isinstance(record, BadRow):
                    raise record
                found = self._made(record, origin)
            except LeftOut as reason:
                self.report.left_out.add(str(reason), origin)
                continue
            except BadRow as error:
                self.converter.rows(error, origin)  # counts it
                found = []
            if self.report.problems:
                if self.order.args.on_bad_row == "error":
                    refuse_bad_rows(self.report.problems)
                self.report.problems.clear()  # counted; a list of them would grow with the file
            self.report.train += len(found)
            yield from found

    def _records(self) -> Records:
        """All records, or those that training draws for `#N`."""
        count = self.source.wanted.count
        if count is None:
            yield from self.source.stream()
            return
        table = self.source.table()
        places, _ = draw(len(table), count, 0.0, random.Random(self.order.args.seed))
        for place in places:
            yield table[place]

    def _made(self, record: Record, origin: str) -> list[Record]:
        order = self.order
        if self.card_reads:
            return self._written(self.converter.rows(record, origin), ANY)
        record = renamed(record, self.source.columns)
        form = format_of(record) if order.source is ANY else order.source
        if order.compares:
            read_as(form, record)
            return self.second.compared(record)
        if order.ranks:
            if order.target.name == "sft":
                return self.second.chosen(record)
            record = scored_sample(record, self.second.scores_of(record))
        else:
            record = read_as(form, record)
            if GENERATED in form.kinds:
                return self._written(_unjudged(record, origin, order.target), form)
        return self._written(self.converter.rows(record, origin), form, record)

    def _written(self, rows: tuple[Row, ...], form: Format, record: Record | None = None) -> list[Record]:
        target = self.order.target
        found: list[Record] = []
        for row in rows:
            row = _identified(row, record)
            # a format that is named decides what its rows are: exo_sft reads only the chosen answer of a pair
            meant = fitted(row, form) if form is not ANY and not self.order.ranks else (row,)
            for one in (last for first in meant for last in fitted(first, target)):
                numbered = self._numbered(portable(spoken(one, form, target), self.folder))
                assert target.write is not None
                found.append(target.write(numbered))
            self.lost.update(lost(row, form, target))
        return found

    def _numbered(self, row: Row) -> Row:
        self.second.number += 1
        if row.prompt_id or not self.order.target.numbered:
            return row
        return dc.replace(row, prompt_id=str(self.second.number))

    def as_lines(self) -> list[str]:
        """The account: what was read, written, dropped, left out and not carried over."""
        report = self.report
        lines = [f"{report.name}: read {report.found}, wrote {report.train}"]
        if self.order.source is ANY:
            lines += [f"  recognised as {one.as_text()} ({n} rows)" for one, n in report.mappings.most_common(_SHOWN)]
        if report.bad.counts:
            lines.append(f"  dropped {report.bad.counts.total()}: {report.bad.as_text()}")
        if report.left_out.counts:
            lines.append(f"  left out {report.left_out.counts.total()}: {report.left_out.as_text()}")
        gone = [f"{name} ({count} rows)" for name, count in self.lost.most_common()]
        kept = {"query_id"} if "query ids" in self.order.target.keeps else set()
        unused = dict.fromkeys(name for mapping in report.mappings for name in mapping.unused if name not in kept)
        gone += [f"column {name}" for name in unused]
        if gone:
            lines.append(f"  not carried over: {', '.join(gone)}")
        if not report.train:
            lines += self._why_nothing()
        return lines

    def _why_nothing(self) -> list[str]:
        try:
            self.converter.refuse_unusable()
        except UserError as error:
            return [f"  {line}" for line in str(error).splitlines()]
        return []


def portable(row: Row, folder: Path) -> Row:
    """With paths of pictures that still lead there: from the output's folder when they lie in it, else absolute."""

    def placed(turns: Turns) -> Turns:
        return dc.replace(turns, images=tuple(_path(image, folder) for image in turns.images))

    if not any(turns.images for turns in (row.prompt, *row.prompts, *row.completions)):
        return row
    prompts, completions = tuple(map(placed, row.prompts)), tuple(map(placed, row.completions))
    return dc.replace(row, prompt=placed(row.prompt), prompts=prompts, completions=completions)


def _path(image: Image, folder: Path) -> Image:
    if not is_file(image):
        return image
    path, start = _normal(str(image.source)), _normal(folder)
    return Image(path.relative_to(start).as_posix() if path.is_relative_to(start) else str(path))


def _normal(path: str | Path) -> Path:
    """Absolute and without `..`, links left alone: a linked folder of pictures stays portable."""
    return Path(os.path.normpath(Path(path).absolute()))


def renamed(record: Record, columns: Any) -> Record:
    """The record with the columns of `columns` under our names."""
    taken = {ours for theirs, ours in columns.items() if theirs in record}
    kept = {key: value for key, value in record.items() if key not in columns and key not in taken}
    return kept | {ours: record[theirs] for theirs, ours in columns.items() if theirs in record}


def _identified(row: Row, record: Record | None) -> Row:
    query_id = record.get("query_id") if record else None
    return row if row.prompt_id or query_id is None else dc.replace(row, prompt_id=str(query_id))


def _unjudged(record: Record, origin: str, target: Format) -> tuple[Row, ...]:
    """Several answers without any judgement: not checked, for models may repeat themselves or say nothing."""
    if GENERATED not in target.kinds:
        raise BadRow("answers without a judgement", "scores are missing")
    return (dc.replace(to_row(record)[0], origin=origin, scores=()),)
