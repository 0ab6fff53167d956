"""The engine that stands on transformers: one thread computes whatever has been asked, all of it together."""

from __future__ import annotations

import dataclasses as dc
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from swiftlike.core.errors import UserError
from swiftlike.core.log import get_logger
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import Turns
from swiftlike.engines.base import Answer, Delta, Request
from swiftlike.engines.batch import PREFILL, Batch, Model
from swiftlike.engines.beams import alike, search
from swiftlike.engines.choosing import generator, settle
from swiftlike.engines.prompts import Prepared, Prompts
from swiftlike.engines.row import Event, Row, completion
from swiftlike.engines.text import Text

log = get_logger(__name__)
CONTEXT = 8  # ids before an answer that its first space may depend on
Send = Callable[[Row, Event], None]


@dc.dataclass(frozen=True, kw_only=True)
class Room:
    """What is computed together at most: rows, and tokens in all their keys and values."""

    rows: int = 256
    tokens: int = 1 << 40


class PtEngine:
    """Answers from a transformers model. `served` is the adapter that a request without one gets ("": none).

    Requests of all callers meet in one batch: each step gives every answer a token, ended answers leave, waiting ones
    enter. `mixed` False keeps answers of different adapters apart.
    """

    name = "pt"

    def __init__(  # noqa: PLR0913 - facts of a model, by keyword
        self,
        model: Model,
        prompts: Prompts,
        *,
        adapters: Sequence[str] = (),
        served: str = "",
        own: Any = None,
        room: Room | None = None,
        mixed: bool = True,
        known_as: Mapping[str, str] | None = None,
    ) -> None:
        self.model, self.prompts, self.served, self.mixed = model, prompts, served, mixed
        self.adapters, self.context = tuple(adapters), prompts.context
        self.own = own or model.base.generation_config
        self.room = room or Room()
        self.known_as = known_as or {}
        self._batch = Batch(model)
        self._waiting: deque[Row] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    # -- what is asked ----------------------------------------------------------------------------------------------

    def generate(self, requests: Sequence[Request], done: Callable[[int, Answer], None] | None = None) -> list[Answer]:
        """Answers in the order of the requests. Long prompts go first, so that those of one length meet."""
        answers: list[Answer | None] = [None] * len(requests)

        def ready(i: int, answer: Answer) -> None:
            answers[i] = answer
            if done is not None:
                done(i, answer)

        events: queue.SimpleQueue[tuple[int, Row, Event]] = queue.SimpleQueue()
        rows: list[Row] = []
        for i, request in enumerate(requests):
            try:
                rows += self._rows(request, lambda row, event, i=i: events.put((i, row, event)))
            except BadRow as error:
                ready(i, Answer(error=str(error)))
        rows.sort(key=lambda row: -row.length)
        try:
            self._submit(rows)
            self._gather(events, requests, answers, ready)
        finally:
            self._cancel(rows)
        return [answer for answer in answers if answer is not None]

    def _gather(
        self,
        events: queue.SimpleQueue[tuple[int, Row, Event]],
        requests: Sequence[Request],
        answers: list[Answer | None],
        ready: Callable[[int, Answer], None],
    ) -> None:
        """Wait until every request has its answer."""
        parts: dict[int, dict[int, list[Delta]]] = {}
        while any(answer is None for answer in answers):
            i, row, event = events.get()
            if answers[i] is not None:
                continue
            if isinstance(event, Exception):
                ready(i, Answer(error=str(event)))
                continue
            mine = parts.setdefault(i, {})
            mine.setdefault(row.index, []).append(event)
            if len(mine) == requests[i].sampling.n and all(one[-1].finish for one in mine.values()):
                found = tuple(completion(mine[index]) for index in sorted(mine))
                ready(i, Answer(completions=found, prompt_tokens=len(row.prepared.ids)))
                del parts[i]

    def stream(self, request: Request) -> Iterator[Delta]:
        """Text as it is made."""
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        rows = self._rows(request, lambda _, event: events.put(event), decode=True)
        return self._deltas(rows, events)

    def _deltas(self, rows: list[Row], events: queue.SimpleQueue[Event]) -> Iterator[Delta]:
        left = len(rows)
        try:
            self._submit(rows)
            while left:
                event = events.get()
                if isinstance(event, Exception):
                    raise ValueError(str(event)) from event
                left -= event.finish is not None
                yield event
        finally:
            self._cancel(rows)

    def count(self, request: Request) -> int:
        """Tokens of the prompt."""
        return len(self.prompts.ids(request).ids)

    @property
    def load(self) -> tuple[int, int]:
        """Answers that are computed now, and that wait."""
        return sum(not row.finish for row in tuple(self._batch.rows)), len(self._waiting)

    def close(self) -> None:
        """End all generations."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _rows(self, request: Request, send: Send, decode: bool = False) -> list[Row]:
        """One row for each completion. BadRow when the request cannot be answered."""
        kind, adapter = request.sampling, request.adapter or self.served
        if request.adapter and request.adapter not in self.adapters:
            raise BadRow("unknown adapter", f"{request.adapter!r}; there are {', '.join(self.adapters) or 'none'}")
        if kind.num_beams > 1 and (reason := _not_with_beams(request)):
            raise BadRow("num_beams", reason)
        prepared = self.prompts.ids(request)
        prepared = prepared.decode() if decode else prepared
        left = self.context - len(prepared.ids)
        choice = settle(kind, self.own)
        goes_on = request.continue_last or not isinstance(request.prompt, Turns)
        device = self.model.device
        return [
            Row(
                request=request,
                index=index,
                prepared=prepared,
                adapter=self.known_as.get(adapter, adapter),
                choice=choice,
                generator=generator(kind.seed, index, device) if choice.temperature else None,
                text=Text(
                    self.prompts.template.tokenizer,
                    (*self.prompts.stops, *kind.stop),
                    prepared.ids[-CONTEXT:] if goes_on else (),
                ),
                limit=left if kind.max_new_tokens is None else min(kind.max_new_tokens, left),
                ends=self._ends,
                send=send,
            )
            for index in range(kind.n)
        ]

    @property
    def _ends(self) -> frozenset[int]:
        own = self.own.eos_token_id
        return self.prompts.ends | frozenset(own if isinstance(own, list) else [] if own is None else [own])

    # -- the thread that computes -----------------------------------------------------------------------------------

    def _submit(self, rows: Sequence[Row]) -> None:
        with self._change:
            if self._closed:
                raise ValueError("the engine is closed")
            self._waiting.extend(rows)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pt engine", daemon=True)
                self._thread.start()
            self._change.notify_all()

    def _cancel(self, rows: Sequence[Row]) -> None:
        for row in rows:
            row.cancelled = True

    @torch.no_grad()
    def _run(self) -> None:
        while True:
            with self._change:
                while not (self._waiting or self._batch.rows or self._closed):
                    self._change.wait()
                if self._closed:
                    break
                rows = self._next()
            for group in _groups(_readable(rows)):
                self._try(group, lambda group=group: self._enter(group))
            if self._batch.rows:
                self._try([], self._batch.step)
        for row in (*self._batch.clear(), *self._waiting):
            row.cancel()

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
        if row.request.sampling.num_beams > 1 or other.request.sampling.num_beams > 1:
            return other.request.sampling.num_beams > 1 and alike(row, other)
        if not self.mixed and row.adapter != other.adapter:
            return False
        widest = max(one.length + min(one.limit - len(one.ids), 512) for one in (*all_of_them, row))
        return widest * (len(all_of_them) + 1) <= self.room.tokens

    def _enter(self, rows: list[Row]) -> None:
        if rows[0].request.sampling.num_beams > 1:
            search(self.model, rows)
        else:
            self._batch.admit(rows)
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


def _not_with_beams(request: Request) -> str:
    kind = request.sampling
    if kind.logprobs is not None:
        return "log-probabilities are not given with beam search"
    if kind.presence_penalty or kind.frequency_penalty:
        return "no presence or frequency penalty with beam search"
    return f"{kind.n} answers need as many beams" if kind.n > kind.num_beams else ""


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
    return [row for row in rows if not row.finish]


def _groups(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows whose prompts are read in one pass: one adapter, and no more than PREFILL tokens."""
    group: list[Row] = []
    longest, prompts = 0, 0
    for row in sorted(rows, key=lambda row: row.adapter):
        new = not group or row.prepared is not group[-1].prepared or bool(row.ids)
        longest, prompts = max(longest, row.length), prompts + new
        if group and (row.adapter != group[-1].adapter or longest * prompts > PREFILL):
            yield group
            group, longest, prompts = [], row.length, 1
        group.append(row)
    if group:
        yield group
