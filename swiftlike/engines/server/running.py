"""An engine's deltas, made in threads, read in the event loop; whoever stops reading stops the generation."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import Any

from swiftlike.datasets_registry.row import Turns
from swiftlike.engines.base import Delta, Engine, Request

# Prompts with pictures that are prepared at a time: a picture may be large, and the model needs a core.
_DECODING = threading.BoundedSemaphore(max((os.cpu_count() or 1) // 2, 1))


class Running:
    """Several requests on their way. Iterate for (request number, delta) in the order in which text is made."""

    def __init__(self, engine: Engine, requests: Sequence[Request], threads: Executor) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Delta] | Future[None]] = asyncio.Queue()
        self._stopped = threading.Event()
        self._iterators: dict[int, Iterator[Delta]] = {}
        self._left = len(requests)
        for number, request in enumerate(requests):
            future = threads.submit(self._pump, number, engine, request)
            future.add_done_callback(self._put)

    def _pump(self, number: int, engine: Engine, request: Request) -> None:
        if self._stopped.is_set():
            return
        shows = isinstance(request.prompt, Turns) and bool(request.prompt.images)
        with _DECODING if shows else contextlib.nullcontext():
            iterator = engine.stream(request)
        self._iterators[number] = iterator
        with contextlib.closing(iterator) if hasattr(iterator, "close") else contextlib.nullcontext():
            if self._stopped.is_set():  # before the iterator was known to `stop`
                return
            for delta in iterator:
                if self._stopped.is_set():
                    return
                self._put((number, delta))

    def _put(self, item: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Delta]]:
        """Deltas until all requests are answered. Raises what the engine raised."""
        while self._left:
            item = await self._queue.get()
            if isinstance(item, Future):
                self._left -= 1
                if not item.cancelled():
                    item.result()
            else:
                yield item

    def stop(self) -> None:
        """End what still runs: at once where the engine's iterator can be closed from here, else at its next token."""
        self._stopped.set()
        for iterator in list(self._iterators.values()):
            with contextlib.suppress(ValueError, AttributeError):  # a generator that runs ends at its next token
                iterator.close()  # type: ignore[attr-defined]
