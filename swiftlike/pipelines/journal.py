"""Results of single rows in a file that only grows: what a killed run had finished is there when it starts again."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from swiftlike.core.errors import UserError

ERROR = "error"  # a value with this key says why there is no result; the row is tried again by the next run
_SUFFIX = ".part"


def digest(value: Any) -> str:
    """16 hexadecimal digits that equal values share."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


class Journal:
    """One line per row behind a first line of settings, each flushed; safe to add to from several threads.

    A result is found again only for a row of the same number and content. UserError when another process writes the
    file, or when results of other settings are in it.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.path = output.with_name(output.name + _SUFFIX)
        self._places: dict[int, tuple[str, int, bool]] = {}  # row -> its content, where its line begins, an error?
        self._lock = threading.Lock()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b")
        try:
            self._claim()
            if overwrite:
                self._file.truncate(0)
            self._begin(json.loads(json.dumps(settings, default=str)))
        except BaseException:
            self._file.close()
            raise

    def _claim(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is writing {self.path}", hint="give another --output") from None

    def _begin(self, settings: dict[str, Any]) -> None:
        self._file.seek(0)
        first = self._file.readline()
        if not first.endswith(b"\n"):  # new, or killed before its first line was whole
            self._file.truncate(0)
            self._write({"settings": settings})
            return
        before = json.loads(first)["settings"]
        self._find(len(first))
        if before == settings:
            return
        if self.results:
            names = sorted(name for name in {*before, *settings} if before.get(name) != settings.get(name))
            raise UserError(
                f"{self.path} was begun with other settings",
                problems=[f"{name}: {before.get(name)!r} then, {settings.get(name)!r} now" for name in names],
                hint="--overwrite starts over",
            )
        self._places.clear()
        self._file.truncate(0)
        self._write({"settings": settings})

    @property
    def results(self) -> int:
        """Rows with a result, not an error: what a new start would lose."""
        return sum(not failed for _, _, failed in self._places.values())

    def _find(self, place: int) -> None:
        """Note where each row's last line is; a line without an end is what a kill left, and goes."""
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            found = json.loads(line)
            self._places[found["row"]] = (found["digest"], place, ERROR in found["value"])
            place += len(line)
        self._file.truncate(place)

    def _write(self, value: Mapping[str, Any]) -> int:
        line = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        place = self._file.seek(0, 2)
        self._file.write(line)
        self._file.flush()
        return place

    def add(self, row: int, content: str, value: Mapping[str, Any]) -> None:
        """Keep the result of a row."""
        with self._lock:
            place = self._write({"row": row, "digest": content, "value": value})
            self._places[row] = (content, place, ERROR in value)

    def has(self, row: int, content: str) -> bool:
        """Whether there is a result, not an error, of this row."""
        known = self._places.get(row)
        return known is not None and known[0] == content and not known[2]

    def get(self, row: int, content: str) -> dict[str, Any] | None:
        """The result or the error of a row, None when there is neither."""
        known = self._places.get(row)
        if known is None or known[0] != content:
            return None
        with self._lock:
            self._file.seek(known[1])
            value: dict[str, Any] = json.loads(self._file.readline())["value"]
            return value

    def remove(self) -> None:
        """The run is complete: the file goes."""
        self.path.unlink(missing_ok=True)
        self._file.close()

    def close(self) -> None:
        """Let another process have it. One without a result goes: it would only be in the way of other settings."""
        if not self.results:
            self.path.unlink(missing_ok=True)
        self._file.close()


def begun(output: Path) -> bool:
    """Whether a run that writes this file was stopped before its end; the file may be there already."""
    return output.with_name(output.name + _SUFFIX).exists()


@contextlib.contextmanager
def journal(output: Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> Iterator[Journal]:
    """A journal that is closed whatever happens, and stays on disk when it has results and is not removed."""
    kept = Journal(output, settings, overwrite=overwrite)
    try:
        yield kept
    finally:
        kept.close()
