"""Where things that can be made again are kept between runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from swiftlike.core.errors import UserError


def cache_folder(name: str) -> Path:
    """`$SWIFTLIKE_CACHE/name`, by default swiftlike/name in the user's cache folder. Made when absent.

    UserError when it cannot be made.
    """
    given = os.environ.get("SWIFTLIKE_CACHE")
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = (Path(given) if given else user / "swiftlike") / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = "set SWIFTLIKE_CACHE to a folder that you may write to"
        raise UserError(f"cannot make the cache folder {folder}: {error.strerror}", hint=hint) from None
    return folder


@contextlib.contextmanager
def alone(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file `path`, which ends with this process at the latest; `waiting` is called when another one has
    it. OSError where files cannot be locked."""
    import fcntl

    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def settle_folder(partial: Path, final: Path) -> None:
    """Give a folder that is written to its end its name: what has that name is whole, also after a crash."""
    for path in partial.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)


def trim(folder: Path, most_bytes: int, most_days: float, keep: Path) -> None:
    """Remove what has not been used for so many days, and then what was used longest ago until the rest fits. Folders
    say by their time when they were used."""
    entries: list[tuple[float, int, Path]] = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            size = sum(one.stat().st_size for one in path.iterdir()) if path.is_dir() else 0
            entries.append((path.stat().st_mtime, size, path))
    now, total = time.time(), 0
    for used, size, path in sorted(entries, reverse=True):
        total += size
        days = (now - used) / 86400
        written = path.suffix == ".partial" and days < 1  # by another process
        if path.name.startswith(keep.name) or written or (days < most_days and (total <= most_bytes or not size)):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
