"""Groups that were prepared once are taken up again as long as everything that decides them is the same.

An entry is a folder of the cache: the columns, the rows to train and to validate on, and `entry.json`, which is written
last, with the size of every file. One process prepares an entry, others that want it wait for it; when the one that
prepares fails, the next one tries, and fails with the same words.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from swiftlike.core.cache import alone, cache_folder, settle_folder, trim
from swiftlike.core.errors import UserError
from swiftlike.core.log import get_logger
from swiftlike.data.check import Problem
from swiftlike.data.packed import opened
from swiftlike.data.prepared import Prepared

log = get_logger(__name__)
FORMAT = 1
WORTH = 1 << 20  # bytes of data files from which an entry is kept
MOST_BYTES, MOST_DAYS = 64 << 30, 30.0  # of all entries
_ROOM = 4  # times the size of the data files that must be free
_ENTRY, _PICTURES = "entry.json", "pictures.json"


def kept_or_made(
    key: Callable[[], str], size: int, reuse: bool, make: Callable[[Path | None], Prepared]
) -> tuple[Prepared, bool]:
    """(groups of the entry `key`, whether they were prepared by an earlier run); `make` prepares them in a folder or,
    without one, in memory. Without `reuse` only entries count that were made after this call began: by another process
    of the same run. Where the cache cannot be used there is a warning, and memory.
    """
    began, name = time.time(), key()
    since = 0.0 if reuse else began
    try:
        folder = _usable()
        if found := _recalled(folder / name, since):
            return found, True
        if shutil.disk_usage(folder).free < _ROOM * size:
            raise OSError("the disk is nearly full")
        with alone(folder / f"{name}.lock", lambda: log.info("waiting for the process that prepares these rows")):
            found = _recalled(folder / name, since) or _made(folder / name, make, key)
        return found, False
    except OSError as error:
        log.warning("prepared rows are not kept for the next start: %s", error)
    return make(None), False


def _usable() -> Path:
    try:
        return cache_folder("rows")
    except UserError as error:
        raise OSError(error.message) from error


def _made(final: Path, make: Callable[[Path | None], Prepared], key: Callable[[], str]) -> Prepared:
    """Groups that are prepared in a folder beside `final`, which gets that name when all is written."""
    partial = final.with_name(f"{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        _write(make(partial), partial)
        if key() != final.name:
            raise OSError("the data changed while it was read")
        settle_folder(partial, final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    with contextlib.suppress(OSError):
        trim(final.parent, MOST_BYTES, MOST_DAYS, final)
    found = _recalled(final, 0.0)
    if found is None:
        raise OSError("files changed while they were read")
    return found


def key_of(parts: Iterable[Any]) -> str:
    """A name that changes when any of the parts does."""
    digest = hashlib.blake2b(f"{FORMAT}".encode(), digest_size=16)
    for part in parts:
        digest.update(f"\n{part!r}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _write(made: Prepared, folder: Path) -> None:
    """What belongs to the columns, which are there already."""
    for name, part in (("train", made.train), ("val", made.val)):
        part.places.tofile(folder / name)
    (folder / _PICTURES).write_text(json.dumps(made.files))
    facts = {
        "made": time.time(),
        "report": made.report,
        "pictures": _looks(made.files),
        "bad_train": [_listed(problem) for problem in made.bad_train],
        "bad_val": [_listed(problem) for problem in made.bad_val],
        "sizes": {path.name: path.stat().st_size for path in folder.iterdir()},
    }
    (folder / _ENTRY).write_text(json.dumps(facts))


def _listed(problem: Problem) -> list[str]:
    return [problem.origin, problem.kind, problem.detail]


def _recalled(folder: Path, since: float) -> Prepared | None:
    """The groups of an entry that is whole, not older than `since`, and whose pictures are as they were."""
    try:
        facts = json.loads((folder / _ENTRY).read_text())
        sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.name != _ENTRY}
        files = json.loads((folder / _PICTURES).read_text())
        if facts["sizes"] != sizes or facts["made"] < since or facts["pictures"] != _looks(files):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    with contextlib.suppress(OSError):
        os.utime(folder)  # used now
    train, val = (np.fromfile(folder / name, np.int64) for name in ("train", "val"))
    return Prepared(
        train=opened(folder, train),
        val=opened(folder, val),
        report=facts["report"],
        bad_train=[Problem(*one) for one in facts["bad_train"]],
        bad_val=[Problem(*one) for one in facts["bad_val"]],
        files=files,
    )


def _looks(names: Iterable[str]) -> str:
    """What changes when one of these files is written, comes or goes."""
    digest = hashlib.blake2b(digest_size=16)
    for name in names:
        try:
            stat = Path(name).stat()
            digest.update(f"{stat.st_size} {stat.st_mtime_ns}\n".encode())
        except (OSError, ValueError):
            digest.update(b"-\n")
    return digest.hexdigest()
