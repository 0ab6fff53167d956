"""A worker's end of the pipe to its driver, and what it can say about its process."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "trl", "ms-swift", "llamafactory")


class Channel:
    """One JSON object a line to the driver. What libraries print goes to the log instead."""

    def __init__(self) -> None:
        self.out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def send(self, **message: Any) -> None:
        """Tell the driver."""
        print(json.dumps(message), file=self.out)

    def wait(self) -> int:
        """What to do next; 0 to stop."""
        return int(sys.stdin.readline() or 0)


def versions() -> dict[str, str]:
    """Of the packages whose speed is measured."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def resident() -> int:
    """Bytes of memory in use now: the card's where there is one."""
    if on_cuda():
        import torch

        return torch.cuda.memory_allocated()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak() -> int:
    """Bytes of memory in use at most, so far: the card's where there is one, else this process's and what its workers
    hold for themselves now."""
    if on_cuda():
        import torch

        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + sum(_own(child.pid) for child in children())


def _own(pid: int) -> int:
    """Bytes that a process shares with no other."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))
    return 0


def children() -> list[Any]:
    """Processes that this one started and that run, theirs included."""
    import psutil

    return psutil.Process().children(recursive=True)


def processor_seconds() -> float:
    """CPU seconds of this process and of its running children, theirs included."""
    import psutil

    total = time.process_time()
    for process in children():
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def on_cuda() -> bool:
    """Whether a card computes."""
    import torch

    return torch.cuda.is_available()


def settle() -> None:
    """Wait until the card has done what it was asked."""
    if on_cuda():
        import torch

        torch.cuda.synchronize()
