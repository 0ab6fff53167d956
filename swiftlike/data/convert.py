"""Records of one source to checked rows of the wanted kind, with account of everything that is not."""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.data.check import Pictures, Problem, problems
from swiftlike.data.files import Record
from swiftlike.data.media import located
from swiftlike.data.report import DatasetReport
from swiftlike.data.sources import Source
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.columns import Mapping, unknown_layout
from swiftlike.datasets_registry.kinds import LeftOut, to_kind
from swiftlike.datasets_registry.row import Row, Turns
from swiftlike.datasets_registry.shapes import to_row

Account = tuple[DatasetReport, set[str], int, tuple[Record, BadRow] | None, Pictures]
_LISTED = 20  # bad rows that an error writes out


class Converter:
    """Turns records of one source into rows of `kind` and keeps the account in `report`."""

    def __init__(self, source: Source, kind: str, pictures: Pictures, image_root: str | None = None) -> None:
        self.source, self.kind, self.pictures = source, kind, pictures
        self.image_root = Path(image_root).expanduser() if image_root else None
        self.report = DatasetReport(source.name, asked=source.wanted.count)
        self.renamed: set[str] = set()  # columns of `columns` that were met
        self._good = 0
        self._strange: tuple[Record, BadRow] | None = None  # the first record of no usable format

    def rows(self, record: Record, origin: str) -> tuple[Row, ...]:
        """The checked rows of a record: none when it is bad or left out, which the report then says."""
        try:
            row, found = self._rows(record, origin)
        except LeftOut as reason:
            self.report.left_out.add(str(reason), origin)
            return ()
        except BadRow as error:
            if error.kind == "unknown layout" or error.kind == f"no {self.kind} in it":
                self._strange = self._strange or (record, error)
            self._bad([Problem(origin, error.kind, error.detail)])
            return ()
        # Two verdicts out of a pair contradict each other when its answers are equal: that shows in the pair only.
        # Where any row will do, its own answer is kept as it is and only the prompt must be good.
        looked_at = to_kind(row, "prompt") if self.kind == "any" else (row,) if self.kind == "labelled" else found
        wrong = [problem for one in looked_at for problem in problems(one, self.pictures)]
        if wrong:
            self._bad(list(dict.fromkeys(wrong)))
            return ()
        self._good += 1
        return found

    def apart(self) -> Converter:
        """One of the same source with an empty account, for some of the records, perhaps in another process."""
        root = str(self.image_root) if self.image_root else None
        return Converter(self.source, self.kind, Pictures(self.pictures.decode, self.pictures.max_bytes), root)

    @property
    def account(self) -> Account:
        """What is known after the records that were converted."""
        return self.report, self.renamed, self._good, self._strange, self.pictures

    def absorb(self, account: Account) -> None:
        """Add the account of records that come after those of this one."""
        report, renamed, good, strange, pictures = account
        self.report.absorb(report)
        self.renamed |= renamed
        self._good += good
        self._strange = self._strange or strange
        self.pictures.absorb(pictures)

    def _bad(self, found: list[Problem]) -> None:
        self.report.problems.extend(found)
        self.report.bad.add(found[0].kind, found[0].as_text())

    def _rows(self, record: Record, origin: str) -> tuple[Row, tuple[Row, ...]]:
        if isinstance(record, BadRow):
            raise record
        row, mapping = self._read(record)
        if row is None:
            raise LeftOut("the data set's own rule")
        row = self._located(dc.replace(row, origin=origin))
        rows = to_kind(row, self.kind)
        self.report.mappings[mapping] += 1
        return row, rows

    def _read(self, record: dict[str, Any]) -> tuple[Row | None, Mapping]:
        card, columns = self.source.wanted.card, self.source.columns
        if columns:
            self.renamed |= columns.keys() & record.keys()
            taken = {ours for theirs, ours in columns.items() if theirs in record}
            kept = {key: value for key, value in record.items() if key not in columns and key not in taken}
            record = kept | {ours: record[theirs] for theirs, ours in columns.items() if theirs in record}
        if card and card.to_row:
            return card.to_row(record), Mapping(f"data set {card.name}", "", ())
        row, mapping = to_row(record, self.kind)
        if columns:
            names = {ours: theirs for theirs, ours in columns.items()}
            mapping = dc.replace(mapping, pairs=tuple((names.get(ours, ours), to) for ours, to in mapping.pairs))
        return row, mapping

    def _located(self, row: Row) -> Row:
        if not any(turns.images for turns in (row.prompt, *row.prompts, *row.completions)):
            return row
        folder = Path(row.origin.rpartition(":")[0]).parent
        roots = [self.image_root or folder, Path()]  # ms-swift's paths start from the working folder

        def placed(turns: Turns) -> Turns:
            return dc.replace(turns, images=tuple(located(image, roots) for image in turns.images))

        return dc.replace(
            row,
            prompt=placed(row.prompt),
            prompts=tuple(map(placed, row.prompts)),
            completions=tuple(map(placed, row.completions)),
        )

    def refuse_unusable(self) -> None:
        """UserError when records were read and not one of them has a usable format, with the nearest formats."""
        if self._good or self._strange is None:
            return
        record, error = self._strange
        lines = unknown_layout(record, self.kind) if isinstance(record, dict) else []
        what = "its layout is not known" if error.kind == "unknown layout" else f"{error.kind}: {error.detail}"
        raise UserError(
            f"{self.source.name} cannot be used: {what}",
            hint='rename columns with --columns \'{"theirs": "ours"}\'',
            problems=lines,
        )


def refuse_bad_rows(found: list[Problem]) -> None:
    """UserError that lists the first bad rows and counts them by reason; nothing when there are none."""
    if not found:
        return
    counts: dict[str, int] = {}
    for problem in found:
        counts[problem.kind] = counts.get(problem.kind, 0) + 1
    shown = [problem.as_text() for problem in found[:_LISTED]]
    if len(found) > _LISTED:
        shown.append(f"and {len(found) - _LISTED} more; `swiftlike check` lists all")
    summary = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    raise UserError(
        f"the data has bad rows ({summary})", hint="mend them, or leave them out with --on_bad_row drop", problems=shown
    )
