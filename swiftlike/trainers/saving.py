"""A checkpoint is there as a whole or not at all, and none goes before the next one is whole."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError

from swiftlike.core.errors import UserError
from swiftlike.core.files import WHOLE, whole_checkpoints

_WRITER = re.compile(r"PytorchStreamWriter|inline_container|unexpected pos|write failed")  # torch.save, disk full


@contextlib.contextmanager
def whole_or_gone(folder: Path, mine: bool) -> Iterator[None]:
    """Write a checkpoint. What fails to be written goes again, where it is `mine` to write; UserError says why.

    One that lay there counts no longer from the first byte on that changes it.
    """
    if mine:
        (folder / WHOLE).unlink(missing_ok=True)
    try:
        yield
    except BaseException as error:
        free = shutil.disk_usage(folder.parent).free
        if mine:
            shutil.rmtree(folder, ignore_errors=True)
        if not _about_writing(error):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(
            f"{folder} cannot be written: {reason} ({free / 2**20:.1f} MiB were free there)", hint=_left(folder.parent)
        ) from error


def _about_writing(error: BaseException) -> bool:
    if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError):
        return bool(_WRITER.search(str(error)))
    return isinstance(error, OSError | SafetensorError)


def _left(run_folder: Path) -> str:
    found = whole_checkpoints(run_folder)
    room = "make room (--save_total_limit, --save_only_model true), or give another --output_dir"
    if not found:
        return f"there is no whole checkpoint of this run yet; {room}"
    return f"the newest whole checkpoint is {found[-1]}; {room}, then go on from it with --resume_from_checkpoint"


def rotate(run_folder: Path, limit: int | None, keep: Collection[Path]) -> None:
    """Remove the oldest whole checkpoints but `limit`, and never one of `keep`. Their age is their step, not the time
    of a file: clocks jump."""
    found = whole_checkpoints(run_folder)
    kept = {path.resolve() for path in keep}
    spare = [path for path in found if path.resolve() not in kept]
    for path in spare[: max(0, len(found) - max(limit, len(kept)))] if limit else []:
        (path / WHOLE).unlink(missing_ok=True)  # first: half a checkpoint is none
        shutil.rmtree(path, ignore_errors=True)
