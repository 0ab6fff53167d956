"""Random access to records, so that a sample costs what the sample holds and large files stay on disk."""

from __future__ import annotations

import bisect
import itertools
import os
import weakref
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.data.files import Record, begins_with_lines, files_of, line_record, lines_of, read_file

Table = Sequence[tuple[Record, str]]


def table_of(path: Path, split: str) -> Table:
    """The records of a file or of a folder's data files. JSON lines stay in their file; others are read as a whole."""
    return joined([Lines(file) if begins_with_lines(file) else list(read_file(file)) for file in files_of(path, split)])


def joined(tables: Sequence[Table]) -> Table:
    """One table after another."""
    return tables[0] if len(tables) == 1 else Joined(tables)


class Lines(Sequence[tuple[Record, str]]):
    """A file of JSON lines, of which only the places of lines are in memory."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._numbers, self._starts, self._sizes = array("q"), array("q"), array("q")
        try:
            with path.open("rb") as file:
                for number, start, line in lines_of(file, self.name):
                    self._numbers.append(number)
                    self._starts.append(start)
                    self._sizes.append(len(line))
            self._file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        # pread: processes that were forked share the file's position
        line = os.pread(self._file, self._sizes[index], self._starts[index])
        return line_record(line), f"{self.name}:{self._numbers[index]}"


class Joined(Sequence[tuple[Record, str]]):
    """Several tables, one after another."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self.tables = tables
        self._ends = list(itertools.accumulate(map(len, tables)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        which = bisect.bisect_right(self._ends, index)
        return self.tables[which][index - self._ends[which] + len(self.tables[which])]
