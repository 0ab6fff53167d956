"""Answering: all at once or as server-sent events; a client that goes away ends its generation."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi.responses import JSONResponse, Response
from starlette.requests import Request as HttpRequest
from starlette.types import Receive, Scope, Send

from swiftlike.core.log import get_logger
from swiftlike.engines.base import Delta, Request
from swiftlike.engines.server.asking import refusal
from swiftlike.engines.server.bodies import Generation
from swiftlike.engines.server.errors import ApiError
from swiftlike.engines.server.replies import Chunks, Reply
from swiftlike.engines.server.running import Running
from swiftlike.engines.server.state import State

log = get_logger(__name__)
GONE = 499  # what nginx calls a client that did not wait; nobody sees it but the log


async def answer(
    state: State, http: HttpRequest, requests: Sequence[Request], reply: Reply, body: Generation
) -> Response:
    """The response to some requests. ApiError when they cannot be answered."""
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream: true", param="stream_options")
    work = _Work(state, http.scope, requests, reply)
    try:
        first = await attended(http.receive, work.first())
        if body.stream and first is not None:
            return _Events(work, first, bool(body.stream_options and body.stream_options.include_usage))
        parts = None if first is None else await attended(http.receive, work.rest(first))
    except BaseException:
        work.end()
        raise
    work.end()
    return Response(status_code=GONE) if parts is None else JSONResponse(reply.whole(parts))


async def attended(receive: Receive, work: Any) -> Any:
    """What `work` gives, None when the client goes away before."""
    doing, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return doing.result() if doing.done() else None
    finally:
        for task in (doing, leaving):
            task.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Work:
    """A generation and the room it takes."""

    def __init__(self, state: State, scope: Scope, requests: Sequence[Request], reply: Reply) -> None:
        self.state, self.scope, self.reply = state, scope, reply
        self.answers = len(requests) * reply.n
        state.take(self.answers)
        self.began = time.monotonic()
        self.running = Running(state.served.generates, requests, state.threads)
        self.deltas = self._deltas()

    async def _deltas(self) -> AsyncIterator[tuple[int, Delta]]:
        try:
            async for number, delta in self.running:
                self.reply.usage.add(number, delta)
                yield number, delta
        except ValueError as error:
            raise refusal(error) from error

    async def first(self) -> tuple[int, Delta]:
        """The first text, which shows that the request can be answered."""
        found = await anext(self.deltas, None)
        if found is None:
            raise ApiError(500, "the model gave no answer", code="internal_error")
        self.state.metrics.first.observe(time.monotonic() - self.began)
        return found

    async def rest(self, first: tuple[int, Delta]) -> list[tuple[int, Delta]]:
        """Everything."""
        return [first, *[part async for part in self.deltas]]

    def end(self) -> None:
        """Stop what still runs and give the room back. Once."""
        if self.answers:
            self.running.stop()
            self.state.leave(self.answers)
            self.answers = 0
            usage = self.reply.usage
            self.state.metrics.used(usage.prompt, usage.completion)
            note = f"{usage.prompt} + {usage.completion} tokens, {self.reply.model}"
            self.scope.setdefault("state", {})["tokens"] = note


class _Events(Response):
    """The answer as server-sent events."""

    def __init__(self, work: _Work, first: tuple[int, Delta], usage: bool) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-cache"})
        del self.headers["content-length"]
        self.work, self.first, self.usage = work, first, usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send chunks until the answer or the client ends."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await attended(receive, self._send(send))
        finally:
            self.work.end()

    async def _send(self, send: Send) -> None:
        async for event in self._events():
            await send({"type": "http.response.body", "body": b"data: " + event + b"\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def _events(self) -> AsyncIterator[bytes]:
        reply = self.work.reply
        chunks = Chunks(reply)
        try:
            for chunk in chunks(*self.first):
                yield _dumped(chunk)
            async with contextlib.aclosing(self.work.deltas) as deltas:  # type: ignore[type-var]
                async for number, delta in deltas:
                    for chunk in chunks(number, delta):
                        yield _dumped(chunk)
        except ApiError as error:  # the status is sent already: the error comes as an event
            yield _dumped(error.body)
            return
        if self.usage:
            yield _dumped(reply.chunk([], reply.usage.body))


def _dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
