"""A run whose processes torchrun starts again (MAX_RESTARTS) goes on where its newest whole checkpoint is."""

from __future__ import annotations

import os
from pathlib import Path

from swiftlike.core.environment import number
from swiftlike.core.files import whole_checkpoints
from swiftlike.core.log import get_logger
from swiftlike.core.merge import Run
from swiftlike.models.placement import local_processes
from swiftlike.pipelines.elastic import SPOKEN

log = get_logger(__name__)


def restarted() -> int:
    """How often torchrun has started these processes again."""
    return number(os.environ, "TORCHELASTIC_RESTART_COUNT", 0)


def remember(folder: Path) -> None:
    """Leave the run folder's name where the processes of the next start find it: beside what the launcher keeps."""
    if os.environ.get(SPOKEN) and local_processes()[0] == 0:
        with _note().open("a", encoding="utf-8") as file:
            file.write(f"{folder}\n")


def begun_before(folder: Path) -> bool:
    """Whether an earlier start of these processes has begun this run folder: another run's stays another's."""
    return bool(os.environ.get(SPOKEN)) and _note().is_file() and str(folder) in _note().read_text().splitlines()


def after_restart(run: Run) -> Run:
    """The run as it was asked for; started again, it continues the newest checkpoint of the start before."""
    if not restarted() or not os.environ.get(SPOKEN) or not _note().is_file():
        return run
    for folder in reversed(_note().read_text(encoding="utf-8").splitlines()):
        if found := whole_checkpoints(folder):
            log.warning("restart %d: going on from %s", restarted(), found[-1])
            return run.replace("restart", resume_from_checkpoint=str(found[-1]), resume_only_model=False)
    log.warning("restart %d: no checkpoint was saved yet, so it begins anew", restarted())
    return run


def _note() -> Path:
    return Path(os.environ[SPOKEN]).with_name("run_folders")
