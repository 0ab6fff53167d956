"""Records of data sets, one at a time, to checked rows."""

from __future__ import annotations

from swiftlike.core.merge import Run
from swiftlike.data.check import Pictures
from swiftlike.data.convert import Converter
from swiftlike.data.load import max_bytes
from swiftlike.data.report import Reasons
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.kinds import LeftOut
from swiftlike.datasets_registry.row import Row
from swiftlike.pipelines.records import Numbered


class RowReader:
    """Keeps what is found out about each source and about pictures that were seen."""

    def __init__(self, run: Run) -> None:
        self.pictures = Pictures(max_bytes=max_bytes(run.data))
        self._image_root = run.data.image_root
        self._converters: dict[tuple[int, str], Converter] = {}

    def __call__(self, read: Numbered, kind: str) -> Row:
        """The row of that kind that a record gives. BadRow when it cannot be used, LeftOut when it is not wanted."""
        key = (id(read.source), kind)
        if key not in self._converters:
            self._converters[key] = Converter(read.source, kind, self.pictures, self._image_root)
        report = self._converters[key].report
        report.problems.clear()
        report.left_out = Reasons()
        rows = self._converters[key].rows(read.record, read.origin)
        for problem in report.problems:
            raise BadRow(problem.kind, problem.detail)
        for reason in report.left_out.counts:
            raise LeftOut(reason)
        return rows[0]

    def refuse_unusable(self) -> None:
        """UserError when a source has no usable record, with the formats that are nearest to what it has."""
        for converter in self._converters.values():
            converter.refuse_unusable()
