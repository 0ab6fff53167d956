"""What stands before the routes: the key, the size of bodies, the server's phase, a line and a count per request."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from swiftlike.core.log import get_logger
from swiftlike.engines.server.errors import ApiError
from swiftlike.engines.server.mistakes import Mistakes
from swiftlike.engines.server.state import State

log = get_logger(__name__)
OPEN = ("/health", "/metrics")  # answered without a key, and in every phase
BODY_SECONDS = 30.0  # that the next part of a body may take
_LINGER_SECONDS = 2.0
_BODIES = 4  # bodies of the largest size that are held at the same time
_SMALL = 1 << 16  # bytes of a body that there is always room for: large bodies shall not keep small ones out
Handler = Callable[[], Awaitable[None]]


class Guard:
    """ASGI middleware around the application."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        self.app, self.state = app, state
        self.mistakes = Mistakes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it before anything of it is read."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        visit = _Visit(self.state, scope, receive, send, self.mistakes)
        self.state.open += 1
        try:
            self._admit(scope, visit)
            await self.app(scope, visit.receive, visit.send)
        except ApiError as error:
            if not visit.status:
                await visit.refuse(error)
        finally:
            self.state.open -= 1
            visit.forget()
            visit.note()

    def _admit(self, scope: Scope, visit: _Visit) -> None:
        if scope["path"] in OPEN:
            return
        self._check_key(visit.headers.get(b"authorization", b""))
        _ = self.state.served  # 503 while there is none
        length = visit.headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self.state.limits.max_body:
            raise _too_large(self.state)

    def _check_key(self, sent: bytes) -> None:
        key = self.state.limits.api_key
        if key is None:
            return
        scheme, _, given = sent.partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), key.encode()):
            what = "is wrong" if sent else "is missing: Authorization: Bearer KEY"
            raise ApiError(401, f"the API key {what}")


class _Visit:
    """One request's way in and out."""

    def __init__(self, state: State, scope: Scope, receive: Receive, send: Send, mistakes: Mistakes) -> None:
        self.state, self.scope, self._receive, self._send = state, scope, receive, send
        self.mistakes = mistakes
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.read, self.status, self.complete = 0, 0, False
        self.began = time.monotonic()

    async def receive(self) -> Message:
        """The next part of the body, within the limits; behind the body, the client's end."""
        if self.complete:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), BODY_SECONDS)
        except TimeoutError:
            raise ApiError(408, f"the body did not go on for {BODY_SECONDS:g} seconds") from None
        size = len(message.get("body", b""))
        self.read += size
        self.state.held += size
        if self.read > self.state.limits.max_body:
            raise _too_large(self.state)
        if self.read > _SMALL and self.state.held > _BODIES * self.state.limits.max_body:
            raise ApiError(429, "the bodies of other requests take all the room there is")
        self.complete = not message.get("more_body", False)
        return message

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Remember the status, and end the connection where a body was left unread."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            await self._hold_back()
            if self.status >= 400 and not self.complete and self._has_body:
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
        elif self.status >= 400 and not message.get("more_body") and not self.complete and self._has_body:
            await self._send({**message, "more_body": True})
            self.forget()
            await self._linger()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _hold_back(self) -> None:
        """A refusal to a client that makes many mistakes comes later."""
        client = self.scope.get("client")
        if 400 <= self.status < 500 and client and (delay := self.mistakes.delay(client[0])):
            self.forget()
            await asyncio.sleep(delay)

    @property
    def _has_body(self) -> bool:
        return self.headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in self.headers

    async def _linger(self) -> None:
        """Read on for a moment: closing at once would take the answer away from a client that is still sending."""
        end, left = time.monotonic() + _LINGER_SECONDS, 2 * self.state.limits.max_body
        while left > 0 and (wait := end - time.monotonic()) > 0:
            try:
                message = await asyncio.wait_for(self._receive(), wait)
            except TimeoutError:
                return
            left -= len(message.get("body", b""))
            if not message.get("more_body", False):
                return

    def forget(self) -> None:
        """Give the body's room back."""
        self.state.held -= self.read
        self.read = 0

    async def refuse(self, error: ApiError) -> None:
        """Answer with an error."""
        await error.response()(self.scope, self.receive, self.send)

    def note(self) -> None:
        """Count the request, and say so."""
        route = getattr(self.scope.get("route"), "path", "other")
        seconds = time.monotonic() - self.began
        status = self.status or 499  # the client went away before there was an answer
        self.state.metrics.answered(route, status, seconds)
        if self.state.limits.verbose and route not in OPEN:
            tokens = self.scope.get("state", {}).get("tokens", "")
            log.info("%s %s %d %.2fs%s", self.scope["method"], route, status, seconds, tokens and f"  {tokens}")


def _too_large(state: State) -> ApiError:
    return ApiError(413, f"a body may have {state.limits.max_body / 2**20:g} MiB (--max_body)")
