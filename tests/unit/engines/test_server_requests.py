"""What a server makes of bodies before an engine sees them, and what it says when it cannot."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from swiftlike.engines.base import Delta, Request, Sampling
from swiftlike.engines.server.app import build
from swiftlike.engines.server.bodies import NOT_OFFERED, Chat, Text, parse
from swiftlike.engines.server.errors import ApiError
from swiftlike.engines.server.pictures import Pictures
from swiftlike.engines.server.state import DRAINING, READY, STARTING, Limits, Served, State

ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}


class Echo:
    """Says what it was asked, a word at a time, and remembers it."""

    name, adapters, context = "echo", ("red",), 1000

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def stream(self, request: Request) -> Iterator[Delta]:
        self.asked.append(request)
        if request.prompt == "broken":
            raise RuntimeError("the engine's own fault")
        words = ("a ", "plum")
        for index in range(request.sampling.n):
            for number, word in enumerate(words):
                finish = "stop" if word is words[-1] else None
                yield Delta(index=index, text=word, ids=(number,), finish=finish, prompt_tokens=3)

    def generate(self, requests: Sequence[Request], done: Any = None) -> list[Any]:
        raise NotImplementedError

    def count(self, request: Request) -> int:
        return 3

    def close(self) -> None: ...


def state(**limits: Any) -> State:
    served = Served(
        names={"model": "", "red": "red"}, root="/model", engine=Echo(), defaults=Sampling(temperature=0.5, seed=1)
    )
    return State(limits=Limits(**limits), pictures=Pictures(), phase=READY, model=served)


def post(held: State, path: str, body: Any, **headers: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(build(held), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            return await client.post(path, content=content, headers={"content-type": "application/json"} | headers)

    return asyncio.run(ask())


def sampled(held: State, path: str = "/v1/chat/completions", **fields: Any) -> Sampling:
    assert post(held, path, fields).status_code == 200
    engine = held.served.engine
    assert isinstance(engine, Echo)
    return engine.asked[-1].sampling


def test_a_request_says_how_and_the_server_what_it_leaves_open() -> None:
    held = state()
    assert sampled(held, **ASKED) == Sampling(temperature=0.5, seed=1)
    assert sampled(held, **ASKED, temperature=0, top_p=0.9, top_k=5, stop="x", n=2, seed=-1, max_tokens=7) == Sampling(
        temperature=0, top_p=0.9, top_k=5, stop=("x",), n=2, seed=2**63 - 1, max_new_tokens=7
    )
    assert sampled(held, **ASKED, logprobs=True).logprobs == 0
    assert sampled(held, **ASKED, logprobs=True, top_logprobs=4).logprobs == 4
    assert sampled(held, **ASKED, temperature=1e-300).temperature == 0.01
    assert sampled(held, **ASKED, max_completion_tokens=9).max_new_tokens == 9
    assert sampled(held, "/v1/completions", prompt="x").max_new_tokens == 16


@pytest.mark.parametrize("name", ["user", "metadata", "store", *(n for n, values in NOT_OFFERED.items() if values)])
def test_fields_without_an_effect_are_taken(name: str) -> None:
    value = NOT_OFFERED[name][0] if name in NOT_OFFERED else "x"
    parse(Chat, json.dumps(ASKED | {name: value}).encode())


@pytest.mark.parametrize("name", NOT_OFFERED)
def test_fields_that_are_not_offered_are_refused(name: str) -> None:
    parse(Chat, json.dumps(ASKED | {name: None}).encode())
    with pytest.raises(ApiError) as error:
        parse(Chat, json.dumps(ASKED | {name: {"x": 1}}).encode())
    assert (error.value.param, error.value.code) == (name, "not_offered")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "<image>"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}], "images": ["data:,"]}, "images"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        (ASKED | {"temperature": "0.5"}, "temperature"),
        (ASKED | {"max_tokens": True}, "max_tokens"),
        (ASKED | {"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        (ASKED | {"continue_final_message": True}, "continue_final_message"),
        (ASKED | {"tool_choice": "required"}, "tool_choice"),
        (ASKED | {"temprature": 1}, "temprature"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    answer = post(state(), "/v1/chat/completions", fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b"\xff", b"[]", b"null"])
def test_a_body_that_is_no_json_object(body: bytes) -> None:
    answer = post(state(), "/v1/chat/completions", body)
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("held", "body", "headers", "status"),
    [
        (state(api_key="k"), ASKED, {}, 401),
        (state(api_key="k"), ASKED, {"authorization": "Bearer kk"}, 401),
        (state(api_key="k"), ASKED, {"authorization": "bearer k"}, 200),
        (state(), ASKED, {"content-type": "text/plain"}, 415),
        (state(max_body=100), b"x" * 101, {}, 413),
        (state(max_body=100), b"x" * 101, {"content-length": "3"}, 413),
        (state(max_queue=1), ASKED | {"n": 2}, {}, 429),
        (state(), ASKED | {"model": "rde"}, {}, 404),
    ],
)
def test_statuses(held: State, body: Any, headers: dict[str, str], status: int) -> None:
    assert post(held, "/v1/chat/completions", body, **headers).status_code == status
    assert (held.open, held.answers, held.held) == (0, 0, 0)


@pytest.mark.parametrize("phase", [STARTING, DRAINING])
def test_there_is_no_answer_before_and_after(phase: str) -> None:
    held = state()
    held.phase = phase
    answer = post(held, "/v1/chat/completions", ASKED)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
    assert "retry-after" in answer.headers


def test_an_error_of_the_engine_is_one_answer_without_details() -> None:
    held = state()
    answer = post(held, "/v1/completions", {"prompt": "broken"})
    assert answer.status_code == 500
    assert "fault" not in answer.text
    assert post(held, "/v1/completions", {"prompt": "whole"}).status_code == 200
    assert (held.open, held.answers, held.held) == (0, 0, 0)


def test_large_bodies_share_their_room_and_leave_small_ones_theirs() -> None:
    held = state(max_body=1 << 17)
    held.held = taken = 4 << 17
    assert post(held, "/v1/chat/completions", ASKED | {"user": "x" * 70_000}).status_code == 429
    assert post(held, "/v1/chat/completions", ASKED).status_code == 200
    assert held.held == taken


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": 'a,"b\\' * 40_000}]}, 400),
        ("/v1/chat/completions", ASKED | {"metadata": {"x": 'a,"b\\' * 40_000}}, 200),
        ("/v1/chat/completions", ASKED | {"metadata": {str(i): 1 for i in range(40_000)}}, 413),
        ("/v1/chat/completions", ASKED | {"metadata": [0] * 40_000}, 413),
        ("/v1/chat/completions", ASKED | {"stop": [0] * 30_000}, 400),
        ("/v1/completions", {"prompt": [0] * 40_000}, 400),
        ("/v1/completions", {"prompt": [0] * 300_000}, 413),
        ("/v1/completions", {"prompt": [0] * 1_000}, 200),
    ],
)
def test_bodies_of_very_many_values_are_not_read(path: str, fields: dict[str, Any], status: int) -> None:
    assert post(state(), path, fields).status_code == status


def test_of_very_many_mistakes_one_is_told() -> None:
    with pytest.raises(ValidationError) as error:
        Text.model_validate_json(json.dumps({"prompt": [*[0] * 20_000, None, *["x"] * 20_000]}))
    assert error.value.error_count() < 10


def test_the_reply_names_who_answered() -> None:
    held = state()
    assert post(held, "/v1/chat/completions", ASKED).json()["model"] == "model"
    assert post(held, "/v1/chat/completions", ASKED | {"model": "red"}).json()["model"] == "red"
    engine = held.served.engine
    assert isinstance(engine, Echo)
    assert [request.adapter for request in engine.asked] == ["", "red"]


def test_a_stream_has_its_roles_texts_ends_and_usage() -> None:
    answer = post(
        state(), "/v1/chat/completions", ASKED | {"n": 2, "stream": True, "stream_options": {"include_usage": True}}
    )
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    *chunks, last = map(json.loads, lines)
    for index in (0, 1):
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert [one["delta"] for one in mine] == [
            {"role": "assistant", "content": ""}, {"content": "a "}, {"content": "plum"},
        ]  # fmt: skip
        assert [one["finish_reason"] for one in mine] == [None, None, "stop"]
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
