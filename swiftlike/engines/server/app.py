"""The routes: OpenAI's, vLLM's for reward models, health and metrics."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from swiftlike.engines.server import rewards
from swiftlike.engines.server.answers import GONE, answer
from swiftlike.engines.server.asking import chat_request, text_requests
from swiftlike.engines.server.bodies import Chat, Text, body_of
from swiftlike.engines.server.errors import ApiError
from swiftlike.engines.server.guard import Guard
from swiftlike.engines.server.replies import Reply
from swiftlike.engines.server.state import DRAINING, READY, Served, State


def build(state: State) -> ASGIApp:
    """The whole application."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    _facts(app, state)
    _generation(app, state)
    rewards.add(app, state)

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def misled(request: Request, error: HTTPException) -> Response:
        return ApiError(error.status_code, f"{request.method} {request.url.path[:200]}: {error.detail}").response()

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=GONE)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return ApiError(500, "the server made a mistake; its log says which", code="internal_error").response()

    return Guard(app, state)


def _facts(app: FastAPI, state: State) -> None:
    started = int(time.time())

    def model(served: Served, name: str) -> dict[str, Any]:
        adapter = served.names[name]
        length = served.engine.context if served.engine is not None else None
        facts = {"id": name, "object": "model", "created": started, "owned_by": state.limits.owned_by}
        parent = next(iter(served.names)) if adapter else None
        return {**facts, "root": adapter or served.root, "parent": parent, "max_model_len": length}

    @app.get("/health")
    async def health() -> Response:
        if state.phase != READY:
            return ApiError(503, "shutting down" if state.phase == DRAINING else "starting").response()
        return JSONResponse({"status": "ok"})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models")
    async def models() -> Response:
        served = state.served
        return JSONResponse({"object": "list", "data": [model(served, name) for name in served.names]})

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> Response:
        served = state.served
        return JSONResponse(model(served, served.adapter(name)[0]))


def _generation(app: FastAPI, state: State) -> None:
    most = state.limits.max_logprobs

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await body_of(Chat, request)
        served = state.served
        name, adapter = served.adapter(body.model)
        _ = served.generates
        asked = await chat_request(body, served, adapter, state.pictures, most)
        reply = Reply(model=name, n=asked.sampling.n, logprobs=bool(body.logprobs))
        return await answer(state, request, [asked], reply, body)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        body = await body_of(Text, request)
        served = state.served
        name, adapter = served.adapter(body.model)
        _ = served.generates
        asked = await asyncio.to_thread(text_requests, body, served, adapter, most)
        reply = Reply(model=name, n=body.n or 1, logprobs=body.logprobs is not None, chat=False)
        return await answer(state, request, asked, reply, body)

    @app.post("/v1/embeddings")
    async def embeddings() -> Response:
        raise ApiError(400, "embeddings are not offered by this server", code="not_offered")
