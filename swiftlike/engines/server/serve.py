"""The server's life: it listens while the model is loaded, answers, and at the first signal finishes what has begun."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from swiftlike.core.errors import UserError
from swiftlike.core.log import get_logger
from swiftlike.engines.server.app import build
from swiftlike.engines.server.state import DRAINING, READY, Served, State

log = get_logger(__name__)
HEADER_SECONDS = 30.0  # that a client may take for the head of a request
_HEAD = 1 << 15  # bytes of a head
_KEEP_ALIVE = 30
_BACKLOG = 2048


class Connection(H11Protocol):
    """One client. A head that never ends does not hold the connection for ever, and a large one is not read."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to watch."""
        super().connection_made(transport)
        self.loop.call_later(HEADER_SECONDS, self._watch, None)

    def data_received(self, data: bytes) -> None:
        """Read on in pieces: a head's size is looked at where it is incomplete, and all of it may come at once."""
        for start in range(0, len(data), _HEAD):
            if not self.transport.is_closing():
                super().data_received(data[start : start + _HEAD])

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP. A request whose body turns out to be none gets no other answer beside it."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:  # an answer has begun already
            self.transport.close()

    def _watch(self, before: Any) -> None:
        """Close it when nothing but bytes of a head has come since the last look."""
        if self.transport.is_closing():
            return
        busy = self.cycle is not None and not self.cycle.response_complete
        if not busy and self.cycle is before:
            self.transport.close()
            return
        self.loop.call_later(HEADER_SECONDS, self._watch, self.cycle)


class Server(uvicorn.Server):
    """uvicorn, with what a signal means left to us."""

    def __init__(self, config: uvicorn.Config, state: State, stop: Callable[[], None]) -> None:
        super().__init__(config)
        self.state, self.stop = state, stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: answer what has begun. Second one, or before there is a model: end at once."""
        if self.state.phase != READY:
            os._exit(128 + sig)
        self.state.phase = DRAINING
        self.stop()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. UserError when the address cannot be had."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, proto)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(_BACKLOG)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"cannot listen on {host} port {port}: {error}", hint="choose another --host or --port"
        ) from error
    return found


def address(sock: socket.socket, tls: bool) -> str:
    """http://127.0.0.1:8000"""
    host, port = sock.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


async def serve(
    state: State, sock: socket.socket, load: Callable[[], Served], *, deploy: Any, tls: dict[str, str]
) -> None:
    """Serve until a signal. `load` runs in a thread; what it raises ends the server and is raised here."""
    app: ASGIApp = build(state)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    config = uvicorn.Config(
        app, http=Connection, ws="none", lifespan="off", log_config=None, log_level="error", access_log=False,
        server_header=False, timeout_keep_alive=_KEEP_ALIVE, timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=_HEAD, **tls,
    )  # fmt: skip
    server = Server(config, state, lambda: loop.call_soon_threadsafe(stopping.set))
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    log.info("listening on %s; the model is being loaded", address(sock, bool(tls)))
    rates = asyncio.create_task(_rates(state, deploy.log_interval))
    try:
        state.model = await loop.run_in_executor(None, load)
        state.phase = READY
        log.info("ready: %s", ", ".join(state.model.names))
        await asyncio.wait({serving, asyncio.create_task(stopping.wait())}, return_when=asyncio.FIRST_COMPLETED)
        await _drain(state, deploy.drain_timeout)
    finally:
        rates.cancel()
        server.should_exit = True
        await serving
        state.close()
        log.info("stopped")


async def _drain(state: State, seconds: float) -> None:
    """Wait for what runs, then cut off what is left."""
    log.info("stopping: %d requests are finished first; a second signal ends at once", state.open)
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while state.open and loop.time() < end:
        await asyncio.sleep(0.05)
    if state.open:
        log.warning("%d requests are cut off after %g seconds (--drain_timeout)", state.open, seconds)
    if state.model is not None and state.model.engine is not None:
        await loop.run_in_executor(None, state.model.engine.close)
    end = loop.time() + 2
    while state.open and loop.time() < end:
        await asyncio.sleep(0.05)


async def _rates(state: State, seconds: float) -> None:
    while seconds:
        await asyncio.sleep(seconds)
        if line := state.metrics.line():
            log.info("%s, %d answers on their way", line, state.answers)
