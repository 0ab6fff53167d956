"""Routes of a reward model, in vLLM's shape."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from swiftlike.datasets_registry.row import Turns
from swiftlike.engines.server.asking import conversation, judged
from swiftlike.engines.server.bodies import Pooling, Score, body_of
from swiftlike.engines.server.errors import ApiError
from swiftlike.engines.server.state import Served, State


def add(app: FastAPI, state: State) -> None:
    """POST /score for a question and answers, POST /pooling for a conversation; each also below /v1."""

    @app.post("/score")
    @app.post("/v1/score")
    async def score(request: Request) -> Response:
        body = await body_of(Score, request)
        served = state.served
        name, _ = served.adapter(body.model)
        scores = await _scored(state, served, judged(body))
        return _list(name, [{"index": i, "object": "score", "score": one} for i, one in enumerate(scores)])

    @app.post("/pooling")
    @app.post("/v1/pooling")
    async def pooling(request: Request) -> Response:
        body = await body_of(Pooling, request)
        served = state.served
        name, _ = served.adapter(body.model)
        _ = served.scores
        turns = await conversation(body, state.pictures, served)
        if turns.messages[-1].role != "assistant":
            raise ApiError(400, "messages should end with the answer that is scored", param="messages")
        scores = await _scored(state, served, [turns])
        return _list(name, [{"index": i, "object": "pooling", "data": [one]} for i, one in enumerate(scores)])


def _list(name: str, data: list[dict[str, Any]]) -> Response:
    frame = {"id": f"score-{uuid.uuid4().hex}", "object": "list", "created": int(time.time()), "model": name}
    return JSONResponse({**frame, "data": data})


async def _scored(state: State, served: Served, turns: Sequence[Turns]) -> list[float]:
    """Rewards. ApiError 400 for a conversation that cannot be scored."""
    scorer = served.scores
    state.take(len(turns))
    try:
        scores = await asyncio.get_running_loop().run_in_executor(state.scoring, scorer.score, turns)
    finally:
        state.leave(len(turns))
    found = []
    for number, one in enumerate(scores):
        if isinstance(one, str):
            raise ApiError(400, f"conversation {number}: {one[:500]}")
        found.append(one)
    return found
