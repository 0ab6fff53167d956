"""The folder of a training run: named by one process, used by all, written by no other run."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import torch

from swiftlike.core.claim import LOCK, claim
from swiftlike.core.errors import UserError
from swiftlike.core.files import ARGS, new_run_folder, write_args
from swiftlike.core.log import is_main, world_size
from swiftlike.core.merge import Run
from swiftlike.pipelines.continuing import resume_folder
from swiftlike.pipelines.prepare import Checkpoint
from swiftlike.pipelines.restarts import begun_before

_BEGUN = {ARGS, LOCK, "runs"}  # what is there before anything was trained
_OTHER = "give another --output_dir, or leave --add_version true"


def shared_folder(run: Run, checkpoint: Checkpoint) -> Path:
    """The run folder: rank 0 names it, all ranks use it.

    UserError for a folder that holds another run, or that a running process writes, and for ranks that would begin at
    different checkpoints, as machines do that do not share a disk.
    """
    if world_size() > 1:
        _begin_alike(run)
    used = Path(run.train.output_dir) / "logging.jsonl"
    name = run.model.model_type or checkpoint.source.name
    folder = None
    if is_main():
        folder = new_run_folder(run.train.output_dir, name, add_version=run.train.add_version)
        if not run.train.add_version:
            claim(folder, _OTHER)
            if used.is_file() and resume_folder(run) is None and not begun_before(folder):
                raise UserError(f"{run.train.output_dir} already holds a run", hint=_OTHER)
        write_args(folder, run)
    if world_size() > 1:
        import torch.distributed as dist

        box = [str(folder)]
        dist.broadcast_object_list(box, src=0)
        folder = Path(box[0])
    assert folder is not None
    return folder


def _begin_alike(run: Run) -> None:
    import torch.distributed as dist
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available())
    told: list[Any] = [None] * world_size()
    dist.all_gather_object(told, resume_folder(run))
    begins = sorted(map(str, set(told)))
    if len(begins) > 1:
        raise UserError(
            f"the processes would begin at different checkpoints: {' and '.join(begins)}",
            hint="--output_dir and --resume_from_checkpoint must be on a disk that all machines share",
        )


def leave_nothing(folder: Path) -> None:
    """Take away what a run wrote that failed before its first line; with anything else in it the folder stays."""
    if not is_main() or not folder.is_dir() or {path.name for path in folder.iterdir()} - _BEGUN:
        return
    for name in _BEGUN - {LOCK}:
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()
