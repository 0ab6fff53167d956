"""The engine that stands on transformers."""

from __future__ import annotations

import dataclasses as dc
import queue
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from swiftlike.core.errors import UserError
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import Turns
from swiftlike.engines.base import Answer, Delta, Request
from swiftlike.engines.batch import Model
from swiftlike.engines.choosing import generator, settle
from swiftlike.engines.prompts import Prompts
from swiftlike.engines.row import Event, Row, completion
from swiftlike.engines.text import Text
from swiftlike.engines.worker import Room, Worker

CONTEXT = 8  # ids before an answer that its first space may depend on
Send = Callable[[Row, Event], None]


@dc.dataclass(frozen=True, kw_only=True)
class Adapters:
    """LoRA adapters of a model. `known_as` maps the names that a request may give to PEFT's, "" for a merged one;
    `served` is the one that a request without a name gets ("": none). `mixed` False keeps their answers apart."""

    known_as: Mapping[str, str] = dc.field(default_factory=dict)
    served: str = ""
    mixed: bool = True


class PtEngine:
    """Answers from a transformers model.

    Requests of all callers meet in one batch: each step gives every answer a token, ended answers leave, waiting ones
    enter.
    """

    name = "pt"

    def __init__(
        self, model: Model, prompts: Prompts, adapters: Adapters | None = None, room: Room | None = None
    ) -> None:
        adapters = adapters or Adapters()
        self.model, self.prompts = model, prompts
        self.served, self.known_as = adapters.served, adapters.known_as
        self.adapters, self.context = tuple(adapters.known_as), prompts.context
        self.own = model.base.generation_config
        self.worker = Worker(model, room or Room(), adapters.mixed)

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
            self.worker.submit(rows)
            self._gather(events, requests, answers, ready)
        finally:
            self.worker.cancel(rows)
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
        ended: Counter[int] = Counter()
        left = answers.count(None)
        while left:
            i, row, event = events.get()
            if answers[i] is not None:
                continue
            if isinstance(event, Exception):
                ready(i, Answer(error=str(event)))
                left -= 1
                continue
            mine = parts.setdefault(i, {})
            mine.setdefault(row.index, []).append(event)
            ended[i] += event.finish is not None
            if ended[i] == requests[i].sampling.n:
                found = tuple(completion(mine[index]) for index in sorted(mine))
                ready(i, Answer(completions=found, prompt_tokens=len(row.prepared.ids)))
                left -= 1
                del parts[i]

    def stream(self, request: Request) -> Stream:
        """Text as it is made. RuntimeError where the request is fine, but could not be computed."""
        events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        rows = self._rows(request, lambda _, event: events.put(event), decode=True)
        self.worker.submit(rows)
        return Stream(self.worker, rows, events)

    def count(self, request: Request) -> int:
        """Tokens of the prompt."""
        return len(self.prompts.ids(request).ids)

    @property
    def load(self) -> tuple[int, int]:
        """Answers that are computed now, and that wait."""
        return self.worker.load

    def close(self) -> None:
        """End all generations."""
        self.worker.close()

    def _rows(self, request: Request, send: Send, decode: bool = False) -> list[Row]:
        """One row for each completion. BadRow when the request cannot be answered."""
        kind, adapter = request.sampling, request.adapter or self.served
        if request.adapter and request.adapter not in self.adapters:
            raise BadRow("unknown adapter", f"{request.adapter!r}; there are {', '.join(self.adapters) or 'none'}")
        if kind.n > kind.num_beams > 1:
            raise BadRow("num_beams", f"{kind.n} answers need as many beams")
        if self.worker.whole(request) and (reason := _only_step_by_step(request)):
            raise BadRow(reason, f"not with {'beam search' if kind.num_beams > 1 else 'this architecture'}")
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


class Stream:
    """Deltas of one request as they are made. `close` may be called from any thread: whoever waits for the next delta
    waits no longer."""

    def __init__(self, worker: Worker, rows: Sequence[Row], events: queue.SimpleQueue[Event | None]) -> None:
        self._worker, self._rows, self._events = worker, rows, events
        self._left, self._closed = len(rows), False

    def __iter__(self) -> Iterator[Delta]:
        return self

    def __next__(self) -> Delta:
        event = self._events.get() if self._left and not self._closed else None
        if event is None or self._closed:
            raise StopIteration
        if isinstance(event, Exception):
            self.close()
            known = isinstance(event, ValueError | OSError | UserError)
            raise (ValueError if known else RuntimeError)(str(event)) from event
        self._left -= event.finish is not None
        return event

    def close(self) -> None:
        """End the generation."""
        if not self._closed:
            self._closed = True
            self._events.put(None)
            self._worker.cancel(self._rows)

    def __del__(self) -> None:
        for row in self._rows:  # without the worker's lock, which this thread may hold already
            row.cancelled = True


def _only_step_by_step(request: Request) -> str:
    kind = request.sampling
    penalty = "presence and frequency penalty" if kind.presence_penalty or kind.frequency_penalty else ""
    return "logprobs" if kind.logprobs is not None else penalty
