"""What an engine made, in OpenAI's shapes: whole answers and the chunks of a stream."""

from __future__ import annotations

import dataclasses as dc
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from swiftlike.engines.base import Delta, Token
from swiftlike.engines.server.errors import ApiError

Json = dict[str, Any]
_LEAST = -9999.0  # JSON has no infinity; vLLM's number for a token that cannot come


@dc.dataclass
class Usage:
    """Tokens of the prompts, each counted once, and of all answers."""

    prompts: dict[int, int] = dc.field(default_factory=dict)
    completion: int = 0

    def add(self, number: int, delta: Delta) -> None:
        """Count a delta of request `number`."""
        self.prompts[number] = max(self.prompts.get(number, 0), delta.prompt_tokens)
        self.completion += len(delta.ids)

    @property
    def prompt(self) -> int:
        """Tokens of all prompts."""
        return sum(self.prompts.values())

    @property
    def body(self) -> Json:
        """OpenAI's usage object."""
        total = self.prompt + self.completion
        return {"prompt_tokens": self.prompt, "completion_tokens": self.completion, "total_tokens": total}


@dc.dataclass(kw_only=True)
class Reply:
    """One answer to a client. `n` completions for each of its requests."""

    model: str
    n: int = 1
    logprobs: bool = False
    chat: bool = True
    id: str = dc.field(default_factory=lambda: uuid.uuid4().hex)
    created: int = dc.field(default_factory=lambda: int(time.time()))
    usage: Usage = dc.field(default_factory=Usage)

    def _frame(self, kind: str, choices: Sequence[Json]) -> Json:
        id_ = ("chatcmpl-" if self.chat else "cmpl-") + self.id
        return {"id": id_, "object": kind, "created": self.created, "model": self.model, "choices": list(choices)}

    def whole(self, parts: Sequence[tuple[int, Delta]]) -> Json:
        """The answer that is sent at once."""
        made: dict[int, list[Delta]] = {}
        for number, delta in parts:
            made.setdefault(number * self.n + delta.index, []).append(delta)
        choices = [self._choice(index, made[index]) for index in sorted(made)]
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._frame(kind, choices), "usage": self.usage.body}

    def _choice(self, index: int, deltas: Sequence[Delta]) -> Json:
        text = "".join(delta.text for delta in deltas)
        said = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        tokens = [token for delta in deltas for token in delta.tokens]
        return {"index": index, **said, "logprobs": self.likelihoods(tokens, 0), "finish_reason": _finish(deltas[-1])}

    def chunk(self, choices: Sequence[Json], usage: Json | None = None) -> Json:
        """One part of a stream, with its usage where that was asked for."""
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return {**self._frame(kind, choices), "usage": usage}

    def likelihoods(self, tokens: Sequence[Token], start: int) -> Json | None:
        """The logprobs object, None where it was not asked for. `start`: characters before the first token."""
        if not self.logprobs:
            return None
        return _chat_logprobs(tokens) if self.chat else _text_logprobs(tokens, start)


class Chunks:
    """State of a stream: who has begun to speak, and how much text each has."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self._length: dict[int, int] = {}

    def __call__(self, number: int, delta: Delta) -> Iterator[Json]:
        """Chunks of one delta; the first of a chat answer names the role."""
        reply, index = self.reply, number * self.reply.n + delta.index
        if index not in self._length and reply.chat:
            role = {"role": "assistant", "content": ""}
            yield reply.chunk([{"index": index, "delta": role, "logprobs": None, "finish_reason": None}])
        start = self._length.get(index, 0)
        self._length[index] = start + len(delta.text)
        if not (delta.text or delta.tokens or delta.finish):
            return
        said: Json = {"text": delta.text}
        if reply.chat:
            said = {"delta": {"content": delta.text} if delta.text else {}}
        logprobs = reply.likelihoods(delta.tokens, start)
        yield reply.chunk([{"index": index, **said, "logprobs": logprobs, "finish_reason": _finish(delta)}])


def _finish(delta: Delta) -> str | None:
    if delta.finish == "cancelled":
        raise ApiError(503, "the server is shutting down; the answer was cut off")
    return delta.finish


def _chat_logprobs(tokens: Sequence[Token]) -> Json:
    def entry(text: str, logprob: float) -> Json:
        return {"token": text, "logprob": max(logprob, _LEAST), "bytes": list(text.encode())}

    content = [
        {**entry(one.text, one.logprob), "top_logprobs": [entry(text, logprob) for _, text, logprob in one.top]}
        for one in tokens
    ]
    return {"content": content, "refusal": None}


def _text_logprobs(tokens: Sequence[Token], start: int) -> Json:
    offsets = []
    for token in tokens:
        offsets.append(start)
        start += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [max(token.logprob, _LEAST) for token in tokens],
        "top_logprobs": [{text: max(logprob, _LEAST) for _, text, logprob in token.top} for token in tokens],
        "text_offset": offsets,
    }
