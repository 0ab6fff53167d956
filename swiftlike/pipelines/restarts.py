"""A run whose processes torchrun starts again (MAX_RESTARTS) goes on where its newest whole checkpoint is."""

from __future__ import annotations

import os
from pathlib import Path

from swiftlike.core.environment import this_start
from swiftlike.core.files import whole_checkpoints
from swiftlike.core.log import get_logger
from swiftlike.core.merge import Run
from swiftlike.models.placement import local_processes
from swiftlike.pipelines.elastic import SPOKEN

log = get_logger(__name__)


def remember(folder: Path) -> None:
    """Leave the run folder's name where the processes of the next start find it: beside what the launcher keeps."""
    if os.environ.get(SPOKEN) and local_processes()[0] == 0:
        with _note().open("a", encoding="utf-8") as file:
            file.write(f"{this_start(os.environ)} {folder}\n")


def begun_before(folder: Path) -> bool:
    """Whether an earlier start of these processes has begun this run folder: another run's stays another's."""
    return str(folder) in [begun for _, begun in _earlier()]


def after_restart(run: Run) -> Run:
    """The run as it was asked for; started again, it continues the newest checkpoint of the start before."""
    begun = _earlier()
    count = len({start for start, _ in begun})
    for _, folder in reversed(begun):
        if found := whole_checkpoints(folder):
            log.warning("restart %d: going on from %s", count, found[-1])
            return run.replace("restart", resume_from_checkpoint=str(found[-1]), resume_only_model=False)
    if count:
        log.warning("restart %d: no checkpoint was saved yet, so it begins anew", count)
    return run


def _earlier() -> list[tuple[str, str]]:
    """(start, run folder) of what earlier starts of these processes have begun, in order."""
    if not os.environ.get(SPOKEN) or not _note().is_file():
        return []
    lines = [line.partition(" ") for line in _note().read_text(encoding="utf-8").splitlines()]
    return [(start, folder) for start, _, folder in lines if start != this_start(os.environ)]


def _note() -> Path:
    return Path(os.environ[SPOKEN]).with_name("run_folders")
