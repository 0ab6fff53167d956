"""One line of the file of answers. The keys are those of ms-swift v4, with `index` and `error` beside them."""

from __future__ import annotations

import base64
import math
from typing import Any

from swiftlike.datasets_registry.row import Image, Turns
from swiftlike.engines.base import Completion, Token
from swiftlike.pipelines.infer.rows import Asked, own_answer

Record = dict[str, Any]
LEAST = -9999.0  # JSON has no infinity; vLLM writes this too


def answered(one: Asked, completion: Completion | None, error: str = "", logprobs: bool = False) -> Record:
    """A row with its answer, or with the reason why it has none. Training can read it again."""
    messages = messages_of(one.row.prompt) if one.row is not None else []
    if completion is not None:
        messages.append({"role": "assistant", "content": completion.text})
    record: Record = {
        "index": one.index,
        "messages": messages,
        "response": None if completion is None else completion.text,
        "labels": None if one.row is None else own_answer(one.row),
        "images": _images(one),
        "finish_reason": None if completion is None else completion.finish,
        "error": error or one.error or None,
    }
    if logprobs:
        record["logprobs"] = None if completion is None else {"content": [token_record(t) for t in completion.tokens]}
    return record


def scored(one: Asked, rewards: list[float | str], error: str = "") -> Record:
    """A row with a reward for each of its answers; None for one that has none, which `error` explains."""
    numbers = [reward if isinstance(reward, float) else None for reward in rewards]
    answers = [turns.messages[-1].content for turns in one.row.completions] if one.row is not None else []
    reasons = [f"answer {place + 1}: {said}" for place, said in enumerate(rewards) if isinstance(said, str)]
    return {
        "index": one.index,
        "messages": messages_of(one.row.prompt) if one.row is not None else [],
        "completions": answers,
        "rewards": numbers or None,
        "images": _images(one),
        "error": error or one.error or "; ".join(reasons) or None,
    }


def messages_of(turns: Turns) -> list[dict[str, str]]:
    """Turns as JSON has them."""
    return [{"role": message.role, "content": message.content} for message in turns.messages]


def _images(one: Asked) -> list[str]:
    return [source_text(image) for image in one.row.prompt.images] if one.row is not None else []


def source_text(image: Image) -> str:
    """A picture as a text that can be read again: its path or URL, or its bytes as a data URL."""
    if isinstance(image.source, str):
        return image.source
    return "data:application/octet-stream;base64," + base64.b64encode(image.source).decode()


def token_record(token: Token) -> Record:
    """A token as OpenAI's chat completions show it."""
    return {
        "token": token.text,
        "logprob": finite(token.logprob),
        "bytes": list(token.text.encode("utf-8", "surrogatepass")),
        "top_logprobs": [
            {"token": text, "logprob": finite(value), "bytes": list(text.encode("utf-8", "surrogatepass"))}
            for _, text, value in token.top
        ],
    }


def finite(value: float) -> float:
    """The number, or the least that is written."""
    return value if math.isfinite(value) else LEAST


def conversation(prompt: Turns, completion: Turns) -> Turns:
    """A prompt and its answer as one."""
    return Turns((*prompt.messages, *completion.messages), (*prompt.images, *completion.images))
