"""The thread that computes whatever has been asked, all of it together."""

from __future__ import annotations

import dataclasses as dc
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch

from swiftlike.core.errors import UserError
from swiftlike.core.log import get_logger
from swiftlike.engines.base import Request
from swiftlike.engines.batch import PREFILL, Batch, Model
from swiftlike.engines.beams import alike, search
from swiftlike.engines.prompts import Prepared
from swiftlike.engines.row import Row

log = get_logger(__name__)
AHEAD = 512  # tokens that an answer is expected to have at most, where only the context limits it


@dc.dataclass(frozen=True, kw_only=True)
class Room:
    """What is computed together at most: rows, and tokens in all their keys and values."""

    rows: int = 256
    tokens: int = 1 << 40


class Worker:
    """Computes rows: each step gives every one a token, ended ones leave, waiting ones enter.

    `mixed` False keeps rows of different adapters apart. The thread starts with the first rows.
    """

    def __init__(self, model: Model, room: Room, mixed: bool) -> None:
        self.model, self.room, self.mixed = model, room, mixed
        self._batch = Batch(model)
        self._waiting: deque[Row] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def load(self) -> tuple[int, int]:
        """Rows that are computed now, and that wait."""
        return sum(not row.finish for row in tuple(self._batch.rows)), len(self._waiting)

    def whole(self, request: Request) -> bool:
        """Whether transformers' generate computes the answer as a whole."""
        return request.sampling.num_beams > 1 or not self.model.attends

    def close(self) -> None:
        """Cancel all rows and end the thread."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join()

    def submit(self, rows: Sequence[Row]) -> None:
        """Have rows computed. ValueError once it is closed."""
        with self._change:
            if self._closed:
                raise ValueError("the engine is closed")
            self._waiting.extend(rows)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pt engine", daemon=True)
                self._thread.start()
            self._change.notify_all()

    def cancel(self, rows: Sequence[Row]) -> None:
        """End rows: those that wait now, those that are computed at their next token."""
        with self._change:
            for row in rows:
                row.cancelled = True
            waiting = [row for row in self._waiting if row.cancelled]
            if waiting:
                self._waiting = deque(row for row in self._waiting if not row.cancelled)
        for row in waiting:
            row.cancel()

    @torch.no_grad()
    def _run(self) -> None:
        # A signal goes to any thread that lets it in; Ctrl-C taken here would not wake the one that reads the keys.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        while True:
            with self._change:
                while not (self._waiting or self._batch.rows or self._closed):
                    self._change.wait()
                if self._closed:
                    break
                rows = self._next()
            for group in _groups(_readable(rows)):
                self._try(group, lambda group=group: self._enter(group))
                self._step()
            if not rows:
                self._step()
        for row in (*self._batch.clear(), *self._waiting):
            row.cancel()

    def _step(self) -> None:
        """A token for every row that has entered."""
        if self._batch.rows:
            self._try([], self._batch.step)

    def _next(self) -> list[Row]:
        """The waiting rows that there is room for, in order."""
        rows: list[Row] = []
        present = self._batch.rows
        while self._waiting and len(present) + len(rows) < self.room.rows:
            row = self._waiting[0]
            if row.cancelled:
                self._waiting.popleft().cancel()
                continue
            other = (rows or present)[-1] if rows or present else None
            if other is not None and not self._beside(row, other, [*present, *rows]):
                break
            rows.append(self._waiting.popleft())
        return rows

    def _beside(self, row: Row, other: Row, all_of_them: Sequence[Row]) -> bool:
        """Whether a row may be computed together with others; `other` is the last of them."""
        if self.whole(row.request) or self.whole(other.request):
            return self.whole(other.request) and alike(row, other)
        if not self.mixed and row.adapter != other.adapter:
            return False
        widest = max(one.length + min(one.limit - len(one.ids), AHEAD) for one in (*all_of_them, row))
        return widest * (len(all_of_them) + 1) <= self.room.tokens

    def _enter(self, rows: list[Row]) -> None:
        for row in rows:
            if row.cancelled:
                row.cancel()
        rows = [row for row in rows if not row.finish]
        if rows and self.whole(rows[0].request):
            search(self.model, rows)
        elif rows:
            self._batch.admit(rows, self._step)
        for row in rows:
            row.prepared = dc.replace(row.prepared, decoded=None)  # its pictures are in the cache now

    def _try(self, rows: list[Row], compute: Callable[[], None]) -> None:
        """Compute. Out of memory: with half as many at a time, from where each answer was. Other errors end the
        answers that they hit, and no others."""
        try:
            compute()
        except Exception as error:  # this thread answers everybody: nothing may end it
            hit = [row for row in rows if not row.finish] or self._batch.clear()
            if not is_out_of_memory(error):
                log.exception("an answer could not be computed", exc_info=error)
                for row in hit:
                    row.fail(error)
                return
            self._smaller([*self._batch.clear(), *(row for row in rows if not row.finish)] or hit)

    def _smaller(self, rows: list[Row]) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(rows) == 1:
            rows[0].fail(MemoryError(f"out of memory with a single answer of {rows[0].length} tokens"))
            return
        self.room = dc.replace(self.room, rows=max(len(rows) // 2, 1))
        log.warning("out of memory with %d answers at once; going on with %d", len(rows), self.room.rows)
        with self._change:
            self._waiting.extendleft(reversed(rows))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a card or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _readable(rows: Sequence[Row]) -> list[Row]:
    """The rows with their pictures decoded; one whose pictures cannot be read ends here."""
    decoded: dict[Prepared, Prepared] = {}
    for row in rows:
        try:
            if row.prepared not in decoded:
                decoded[row.prepared] = row.prepared.decode()
            row.prepared = decoded[row.prepared]
        except (ValueError, OSError, RuntimeError, UserError) as error:
            row.fail(error)
        except Exception as error:  # as above: a strange file must not end the thread
            log.exception("a picture could not be read", exc_info=error)
            row.fail(error)
    return [row for row in rows if not row.finish]


def _groups(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows whose prompts are read in one pass: one adapter, and no more than PREFILL tokens."""
    group: list[Row] = []
    longest, prompts = 0, 0
    for row in sorted(rows, key=lambda row: (row.adapter, -row.length)):
        new = not group or row.prepared is not group[-1].prepared or bool(row.ids)
        longest, prompts = max(longest, row.length), prompts + new
        if group and (row.adapter != group[-1].adapter or longest * prompts > PREFILL):
            yield group
            group, longest, prompts = [], row.length, 1
        group.append(row)
    if group:
        yield group
