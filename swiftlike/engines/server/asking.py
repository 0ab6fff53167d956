"""From bodies to what an engine is asked."""

from __future__ import annotations

import dataclasses as dc
import json
from collections.abc import Sequence

from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import IMAGE_TAG, Message, Turns
from swiftlike.datasets_registry.turns import messages_of
from swiftlike.engines.base import Request, Sampling
from swiftlike.engines.server.bodies import (
    MAX_ANSWERS,
    Chat,
    ChatMessage,
    Generation,
    ImagePart,
    Pooling,
    Score,
    Text,
    TextPart,
)
from swiftlike.engines.server.errors import ApiError
from swiftlike.engines.server.pictures import Pictures
from swiftlike.engines.server.state import Served

_ROLES = {"developer": "system", "function": "tool"}
_COLDEST = 0.01  # below this a division by it overflows; vLLM's limit
_USUAL_TEXT_TOKENS = 16  # OpenAI's default of /v1/completions
_MOST_STOPS, _LONGEST_STOP = 64, 1024
_TOO_LONG = "context_length_exceeded"


async def chat_request(body: Chat, served: Served, adapter: str, pictures: Pictures, most: int) -> Request:
    """The conversation of a chat body. `most`: alternatives per token that may be asked for."""
    turns = await conversation(body, pictures, served)
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    if (asked := body.max_completion_tokens) and body.max_tokens not in (None, asked):
        raise ApiError(400, "max_tokens and max_completion_tokens mean the same; give one of them", param="max_tokens")
    going_on = bool(body.continue_final_message)
    if going_on and (body.add_generation_prompt or turns.messages[-1].role != "assistant"):
        raise ApiError(
            400, "continue_final_message goes on with a last assistant message", param="continue_final_message"
        )
    if body.add_generation_prompt is False and not going_on:
        raise ApiError(400, "add_generation_prompt: false needs continue_final_message", param="add_generation_prompt")
    tools = json.dumps(body.tools, ensure_ascii=False) if body.tools and body.tool_choice != "none" else ""
    limit = body.max_completion_tokens or body.max_tokens or served.defaults.max_new_tokens
    return Request(
        prompt=turns,
        sampling=_sampling(body, served, limit, _allowed(logprobs, most, "top_logprobs")),
        adapter=adapter,
        tools=tools,
        continue_last=going_on,
    )


def text_requests(body: Text, served: Served, adapter: str, most: int) -> list[Request]:
    """A request for each prompt of a completions body."""
    prompts = _prompts(body.prompt)
    if not prompts or not all(prompts):
        raise ApiError(400, "prompt: should not be empty", param="prompt")
    if len(prompts) * (body.n or 1) > MAX_ANSWERS:
        raise ApiError(400, f"prompts times n may be {MAX_ANSWERS}", param="prompt")
    for prompt in prompts:
        fits(prompt, served, "prompt")
    limit = body.max_tokens or served.defaults.max_new_tokens or _USUAL_TEXT_TOKENS
    sampling = _sampling(body, served, limit, _allowed(body.logprobs, most, "logprobs"))
    return [Request(prompt=prompt, sampling=sampling, adapter=adapter) for prompt in prompts]


def _prompts(prompt: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]) -> list[str | tuple[int, ...]]:
    if isinstance(prompt, str):
        return [prompt]
    if prompt and isinstance(prompt[0], int):
        return [tuple(prompt)]  # type: ignore[arg-type]
    return [one if isinstance(one, str) else tuple(one) for one in prompt]  # type: ignore[arg-type]


def _sampling(body: Generation, served: Served, limit: int | None, logprobs: int | None) -> Sampling:
    """What the request says, and the server's flags where it says nothing."""
    names = ["temperature", "top_p", "top_k", "repetition_penalty", "presence_penalty", "frequency_penalty", "n"]
    given = {name: value for name in names if (value := getattr(body, name)) is not None}
    if given.get("temperature"):
        given["temperature"] = max(given["temperature"], _COLDEST)
    if body.seed is not None:
        given["seed"] = body.seed % 2**63
    if body.stop is not None:
        given["stop"] = _stop(body.stop)
    return dc.replace(served.defaults, **given, max_new_tokens=limit, logprobs=logprobs)


def _stop(asked: str | Sequence[str]) -> tuple[str, ...]:
    words = (asked,) if isinstance(asked, str) else tuple(asked)
    if not all(words) or len(words) > _MOST_STOPS or any(len(word) > _LONGEST_STOP for word in words):
        raise ApiError(
            400, f"stop: up to {_MOST_STOPS} texts of 1 to {_LONGEST_STOP} characters are taken", param="stop"
        )
    return words


def _allowed(logprobs: int | None, most: int, field: str) -> int | None:
    if (logprobs or 0) > most:
        raise ApiError(400, f"{field}: {logprobs} is more than {most} (--max_logprobs)", param=field)
    return logprobs


def fits(prompt: str | tuple[int, ...], served: Served, field: str) -> None:
    """ApiError 400 for a text so long that even the longest tokens could not bring it into the context: it is not
    tokenised then, which would keep others waiting. Likewise for too many token ids."""
    if served.engine is None:
        return
    context, text = served.engine.context, isinstance(prompt, str)
    if len(prompt) > context * (served.longest if text else 1):
        message = f"{len(prompt)} {'characters' if text else 'tokens'}; prompt and answer may have {context} tokens"
        raise ApiError(400, message, param=field, code=_TOO_LONG)


def refusal(error: ValueError) -> ApiError:
    """Why an engine cannot answer a request. What failed in the engine itself is not the request's fault: raised."""
    cause = error if error.__cause__ is None or isinstance(error, BadRow) else error.__cause__
    if isinstance(cause, BadRow):
        return ApiError(400, str(cause)[:1000], code=_TOO_LONG if cause.kind == "prompt is too long" else None)
    if cause is not error:
        raise error
    return ApiError(400, str(error)[:1000])


# -- conversations ------------------------------------------------------------------------------------------------


async def conversation(body: Chat | Pooling, pictures: Pictures, served: Served) -> Turns:
    """Messages and their pictures, which are read now. ApiError 400 for what cannot be shown to a model."""
    urls: list[tuple[str, str]] = []
    messages = [_message(message, f"messages.{number}", urls) for number, message in enumerate(body.messages)]
    tags = sum(message.tags for message in messages)
    own = [(url, f"images.{number}") for number, url in enumerate(body.images or ())]
    if own and urls:
        raise ApiError(400, "images: not beside image_url parts", param="images")
    urls = urls or own
    if tags != len(urls):
        raise ApiError(400, f"{tags} {IMAGE_TAG} tags for {len(urls)} pictures", param="images" if own else "messages")
    fits("".join(message.content for message in messages), served, "messages")
    return Turns(tuple(messages), await pictures.read(urls))


def _message(message: ChatMessage, where: str, urls: list[tuple[str, str]]) -> Message:
    role = _ROLES.get(message.role, message.role)
    text = _content(message, where, urls)
    if message.tool_calls:
        calls = [call.model_dump() for call in message.tool_calls]
        written, _ = messages_of([{"role": "assistant", "content": "", "tool_calls": calls}], where)
        text = "\n".join([*([text] if text else []), written[0].content])
    elif message.content is None:
        raise ApiError(400, f"{where}.content: is missing", param=f"{where}.content")
    return Message(role, text)


def _content(message: ChatMessage, where: str, urls: list[tuple[str, str]]) -> str:
    if not isinstance(message.content, list):
        return message.content or ""
    texts = []
    shows = any(isinstance(part, ImagePart) for part in message.content)
    for number, part in enumerate(message.content):
        field = f"{where}.content.{number}"
        if isinstance(part, TextPart):
            if shows and IMAGE_TAG in part.text:
                raise ApiError(400, f"{field}: {IMAGE_TAG} in a text beside image_url parts", param=field)
            texts.append(part.text)
            continue
        url = part.image_url if isinstance(part.image_url, str) else part.image_url.url
        urls.append((url, field))
        texts.append(IMAGE_TAG)
    return "".join(texts)


def judged(body: Score) -> list[Turns]:
    """Question and answer pairs: one to one, or one question for all answers."""
    asked = [body.text_1] if isinstance(body.text_1, str) else body.text_1
    answers = [body.text_2] if isinstance(body.text_2, str) else body.text_2
    asked = asked * len(answers) if len(asked) == 1 else asked
    if len(asked) != len(answers) or not answers:
        raise ApiError(400, f"{len(asked)} texts in text_1 for {len(answers)} in text_2", param="text_2")
    if any(IMAGE_TAG in text for text in (*asked, *answers)):
        raise ApiError(400, f"{IMAGE_TAG} tags: use /pooling for conversations with pictures", param="text_1")
    pairs = zip(asked, answers, strict=True)
    return [Turns((Message("user", question), Message("assistant", answer))) for question, answer in pairs]
