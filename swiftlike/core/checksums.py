"""Whether the files of a checkpoint are still what was written: every one is named with its SHA-256."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Container, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.core.files import WHOLE, atomic, whole_checkpoints, write_json

SUMS = "SHA256SUMS"  # as the program of that name writes it: `sha256sum -c SHA256SUMS` checks a checkpoint too
_THREADS = 8  # hashing does not hold the interpreter's lock


def seal(folder: Path, facts: Mapping[str, Any]) -> None:
    """Name the content of every file of a finished checkpoint, and mark it as whole: the mark is the last to be there,
    and by then everything is on disk."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = [name for name in names if name not in (SUMS, WHOLE)]
    with ThreadPoolExecutor(_THREADS) as pool:
        sums = list(pool.map(lambda name: _sha256(folder / name, settle=True), names))
    text = "".join(f"{digest}  {name}\n" for digest, name in zip(sums, names, strict=True))
    with atomic(folder / SUMS) as file:
        file.write(text)
    sizes = {name: (folder / name).stat().st_size for name in names}
    write_json(folder / WHOLE, {**facts, "bytes": sizes, "sums": hashlib.sha256(text.encode()).hexdigest()})


def damaged(folder: Path, only: Container[str] | None = None) -> list[str]:
    """What is wrong with a whole checkpoint, a line per file; `only` these are looked at. Nothing of one without sums:
    older versions wrote none."""
    try:
        mark = json.loads((folder / WHOLE).read_bytes())
        if "sums" not in mark:
            return []
        text = (folder / SUMS).read_bytes()
    except FileNotFoundError as error:
        return [f"{Path(error.filename).name}: missing"] if (folder / WHOLE).is_file() else []
    except ValueError:
        return [f"{WHOLE}: its content has changed since it was saved"]
    if hashlib.sha256(text).hexdigest() != mark["sums"]:
        return [f"{SUMS}: its content has changed since it was saved"]
    found = [line.split("  ", 1) for line in text.decode().splitlines()]
    found = [(digest, name) for digest, name in found if only is None or name in only]
    with ThreadPoolExecutor(_THREADS) as pool:
        wrong = pool.map(lambda one: _wrong(folder / one[1], one[0], mark["bytes"][one[1]]), found)
        return [f"{name}: {problem}" for (_, name), problem in zip(found, wrong, strict=True) if problem]


def refuse_damaged(folder: Path, only: Container[str] | None = None) -> None:
    """UserError that names the damaged files of a checkpoint, and the one before it that is not damaged."""
    if problems := damaged(folder, only):
        raise UserError(f"{folder} is damaged:", problems=problems, hint=instead_of(folder))


def instead_of(folder: Path) -> str:
    """What to go on from when a checkpoint cannot be used: the newest good one before it."""
    number = folder.name.rpartition("-")[2]
    steps = {one: int(one.name.rpartition("-")[2]) for one in whole_checkpoints(folder.parent) if one != folder}
    older = [one for one, step in steps.items() if not number.isdigit() or step < int(number)]
    for one in reversed(older):
        if not damaged(one):
            return f"go on from the one before it: --resume_from_checkpoint {one}"
    return "there is no whole checkpoint before it: start the run anew"


def _sha256(path: Path, settle: bool = False) -> str:
    """Of a file's content; `settle`: which is on disk then."""
    with path.open("rb") as file:
        if settle:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _wrong(path: Path, digest: str, size: int) -> str:
    if not path.is_file():
        return "missing"
    now = path.stat().st_size
    if now < size:
        return f"truncated: {now} of {size} bytes are there"
    return "" if now == size and _sha256(path) == digest else "its content has changed since it was saved"
