"""The file of answers: whole lines only, each row once, gone on with after any end of the process."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from swiftlike.core.errors import UserError

FOLDER = "infer_result"
Facts = Mapping[str, Any]


def new_path(folder: Path, now: float | None = None) -> Path:
    """`folder/infer_result/<time>.jsonl`, a name that is not taken."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
    path, number = folder / FOLDER / f"{stamp}.jsonl", 1
    while path.exists():
        path, number = path.with_name(f"{stamp}-{number}.jsonl"), number + 1
    return path


def notes_of(path: Path) -> Path:
    """The file beside the answers that says what they answer, and with what."""
    return path.with_name(f"{path.stem}.run.json")


class Claim:
    """The right to write the answers of one run to a file, held until `close` or the end of the process.

    `facts` say what is answered with what; a file that was begun with others, or by something else, is refused.
    `done` are the rows that it has already. A line that was cut off is taken out.
    """

    def __init__(self, path: Path, facts: Facts) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._notes: IO[str] = os.fdopen(os.open(notes_of(path), os.O_RDWR | os.O_CREAT, 0o666), "r+")
            path.touch()
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}", hint="see --result_path") from None
        try:
            self._hold()
            self._compare(facts)
            with path.open("r+b") as file:
                _drop_cut_line(file)
            self.done = frozenset(read_indices(path))
        except BaseException:
            self.close()
            raise

    def _hold(self) -> None:
        try:
            fcntl.flock(self._notes, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another process is writing {self.path}") from None

    def _compare(self, facts: Facts) -> None:
        facts = json.loads(json.dumps(facts))
        try:
            before = json.loads(self._notes.read() or "null")
        except ValueError:
            before = None  # cut off while it was written, before the first answer
        if before is None and self.path.stat().st_size:
            raise UserError(f"{self.path} is there, and `swiftlike infer` did not begin it", hint="give another file")
        if before is None:
            self._notes.seek(0)
            self._notes.truncate()
            self._notes.write(json.dumps(facts, ensure_ascii=False, indent=2) + "\n")
            self._notes.flush()
            os.fsync(self._notes.fileno())
        elif changed := [name for name in {**before, **facts} if before.get(name) != facts.get(name)]:
            raise UserError(
                f"{self.path} holds answers of another run:",
                hint="give another --result_path, or the same flags and data as before",
                problems=[line for name in changed for line in _difference(name, before.get(name), facts.get(name))],
            )

    def close(self) -> None:
        """Let others write."""
        self._notes.close()

    def end(self) -> None:
        """Let others write; a file that got no answer, since the weights could not be loaded, goes."""
        if not self.path.stat().st_size:
            self.path.unlink()
            notes_of(self.path).unlink()
        self.close()


def _difference(name: str, there: Any, now: Any) -> list[str]:
    """Lines that say what changed; of several values under one name only those that did."""
    if not (isinstance(there, dict) and isinstance(now, dict)):
        return [f"{name}: {there!r} there, now {now!r}"]
    keys = [key for key in {**there, **now} if there.get(key) != now.get(key)]
    return [line for key in keys for line in _difference(f"{name}: {key}", there.get(key), now.get(key))]


class Lines:
    """Adds whole lines to a file. Several threads and processes may do so at the same time."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("r+b")
        self._mine = threading.Lock()

    def add(self, value: Mapping[str, Any]) -> None:
        """One line, given to the operating system before this returns."""
        line = json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        with self._mine, _locked(self._file):
            _drop_cut_line(self._file)  # of another process that was killed
            self._file.write(line)
            self._file.flush()

    def close(self) -> None:
        """No more lines."""
        self._file.close()


@contextlib.contextmanager
def _locked(file: IO[bytes]) -> Iterator[None]:
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _drop_cut_line(file: IO[bytes], step: int = 1 << 16) -> None:
    """Cut the file off behind its last line end, and stand there."""
    end = size = file.seek(0, 2)
    while end:
        start = max(0, end - 1 if end == size else end - step)  # nearly always the last byte settles it
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        file.truncate(end)
    file.seek(end)


def read_indices(path: Path) -> Iterator[int]:
    """The rows that a file of answers has. UserError when a line is not one of ours, or a row is there twice."""
    seen: dict[int, int] = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                index = json.loads(line)["index"]
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path}:{number}: not an answer of `swiftlike infer`", hint="mend the line") from None
            if index in seen:
                raise UserError(f"{path}:{number}: row {index} is there twice, first in line {seen[index]}")
            seen[index] = number
            yield index


def errors_in(path: Path) -> int:
    """Rows of a file of answers that have none."""
    with path.open(encoding="utf-8") as file:
        return sum(json.loads(line).get("error") is not None for line in file)
