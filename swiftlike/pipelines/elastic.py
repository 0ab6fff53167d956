"""torchrun without its tracebacks: `python -m swiftlike.pipelines.elastic` takes the words of torch.distributed.run.

The processes speak for themselves, so nothing is added to a message of theirs; their exit code becomes ours.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from swiftlike.core.parent import PARENT

# Seconds that processes have after SIGTERM to finish a step and save before they are killed; torchrun's own are 30.
# Those whose neighbour has failed get 30 all the same.
LEAVING = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "900"}
# The store in which processes find each other keeps what the start before has left there, and they would look for
# processes that are gone (pytorch issue 167288); so each start makes its own.
ANEW = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
SPOKEN = "_SWIFTLIKE_SPOKEN"  # read by swiftlike.cli.launch; without the underscore it would be taken for a flag


def main(words: Sequence[str]) -> NoReturn:
    """Run torchrun and end as its first failing process did: 128 + n after signal n, so 130 after Ctrl-C."""
    with tempfile.TemporaryDirectory(prefix="swiftlike-") as folder:
        os.environ[SPOKEN] = str(Path(folder) / "spoken")
        os.environ[PARENT] = str(os.getpid())  # processes whose launcher is killed would train on, seen by nobody
        for name, value in (LEAVING | (ANEW if "--max_restarts" in words else {})).items():
            os.environ.setdefault(name, value)
        try:
            code = _run(words)
        except KeyboardInterrupt:  # before torchrun minds signals itself
            code = 128 + signal.SIGINT
    sys.exit(code)


def _run(words: Sequence[str]) -> int:
    from torch.distributed import run  # a second or two, in which Ctrl-C should be heard
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if "LOGLEVEL" not in os.environ:  # torchrun's own variable: who sets it wants to read this
        for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.elastic")]:
            logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        run.main(list(words))
    except SignalException as stopped:
        return 128 + stopped.sigval
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        return _code(rank, failure.exitcode)
    return 0


def _code(rank: int, code: int) -> int:
    """A process's exit code as a shell gives it. Says which process failed, unless that has said why: 2, and after
    signals that it heard."""
    if code < 0:
        sys.stderr.write(f"swiftlike: process {rank} was ended by {signal.Signals(-code).name}\n")
        return 128 - code
    if code not in (2, 128 + signal.SIGINT, 128 + signal.SIGTERM):
        sys.stderr.write(f"swiftlike: process {rank} failed with exit code {code}\n")
    return code


if __name__ == "__main__":
    main(sys.argv[1:])
