"""A stage of a pipeline ends when the pipeline is killed, so that it does not go on writing beside the next run."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

PARENT = "_SWIFTLIKE_PARENT"  # set by pipelines that start processes; the underscore: it is no flag
_PR_SET_PDEATHSIG = 1


def end_with_parent(env: Mapping[str, str]) -> None:
    """Ask the kernel (Linux) to end this process with the one that started it, if a pipeline is above."""
    if PARENT not in env or not sys.platform.startswith("linux"):
        return
    import ctypes

    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent or not Path(f"/proc/{env[PARENT]}").exists():  # it ended before we asked
        os.kill(os.getpid(), signal.SIGKILL)
