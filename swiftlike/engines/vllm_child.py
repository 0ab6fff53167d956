"""vLLM's child processes end with their parent, even when that is killed. vLLM loads this as a plugin in each of them
(entry point `vllm.general_plugins`); it does nothing in processes that swiftlike did not start."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import wait

PARENT = "_SWIFTLIKE_VLLM_PARENT"  # process id that vLLM was started by
_watching = threading.Event()


def end_with_parent() -> None:
    """Watch the parent process, and end this one at once when it is gone."""
    if PARENT not in os.environ or _watching.is_set():
        return
    parent = multiprocessing.parent_process()
    if parent is not None:  # a child of vLLM's
        _watch([parent.sentinel])
    elif os.environ[PARENT] == str(os.getppid()):  # `vllm serve`
        with contextlib.suppress(OSError, AttributeError):  # AttributeError: not Linux
            _watch([os.pidfd_open(os.getppid())])


def _watch(gone: list[int]) -> None:
    def end() -> None:
        wait(gone)
        os.kill(os.getpid(), signal.SIGKILL)

    _watching.set()
    threading.Thread(target=end, name="ends with parent", daemon=True).start()
