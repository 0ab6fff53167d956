"""Work over the places 0 to n, cut into stretches and done by several processes, given back in order."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from swiftlike.core.errors import UserError
from swiftlike.core.parent import PARENT, end_with_parent

Result = TypeVar("Result")
STRETCH = 500  # places of one piece of work
WORTH = 4000  # places from which several processes cost less than they bring


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_stretches(work: Callable[[int, int], Result], length: int, processes: int) -> Iterator[Result]:
    """`work(start, stop)` of each stretch, in order. Several processes are forks of this one: `work` sees all that is
    in memory here, and only its results are sent. UserError when one of them is killed."""
    size = max(1, min(STRETCH, -(-length // processes)))
    borders = [(start, min(start + size, length)) for start in range(0, length, size)]
    if processes == 1 or len(borders) < 2:
        yield from (work(*one) for one in borders)
        return
    pool = ProcessPoolExecutor(
        min(processes, len(borders)),
        multiprocessing.get_context("fork"),
        initializer=_keep,
        initargs=(work, os.getpid()),
    )
    try:
        yield from pool.map(_there, *zip(*borders, strict=True))
    except BrokenProcessPool as error:
        raise UserError(
            "a process that prepares rows was ended, perhaps for want of memory", hint="use fewer: --dataset_num_proc"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_kept: list[Callable[[int, int], object]] = []  # in a worker process: known once, not sent with every stretch


def _keep(work: Callable[[int, int], object], parent: int) -> None:
    end_with_parent({PARENT: str(parent)})
    _kept[:] = [work]


def _there(start: int, stop: int) -> object:
    return _kept[0](start, stop)
