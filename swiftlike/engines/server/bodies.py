"""What requests may say. Wrong types and unknown fields are refused, as OpenAI does: nothing is ignored in silence."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError
from starlette.requests import Request

from swiftlike.core.errors import suggestion
from swiftlike.engines.server.errors import ApiError

MAX_ANSWERS = 128  # n of one request, over all its prompts
_INT64 = 2**63 - 1
_MESSAGES, _PARTS, _TOKENS = 4096, 256, 1 << 20
_VALUES, _IDS = 1 << 15, 1 << 18  # of a body, keys included: reading them keeps all others waiting

# Fields that change no answer: for whom, how it is paid, billed, kept or cached.
NO_EFFECT = frozenset(
    [
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "parallel_tool_calls",
        "priority",
        "request_id",
    ]
)
# Fields of OpenAI and vLLM that would change the answer and that we do not have; what may be sent all the same.
NOT_OFFERED: dict[str, tuple[Any, ...]] = {
    "response_format": ({"type": "text"},),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "functions": ([],),
    "function_call": ("none",),
    "reasoning_effort": (),
    "verbosity": (),
    "prediction": (),
    "audio": (),
    "web_search_options": (),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
    "use_beam_search": (False,),
    "min_p": (0,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "length_penalty": (1,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "prompt_logprobs": (0,),
    "skip_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
    "add_special_tokens": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "structured_outputs": ({},),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "truncate_prompt_tokens": (),
    "dimensions": (),
    "encoding_format": ("float",),
    "videos": ([],),
    "audios": ([],),
}
Body = TypeVar("Body", bound="Asked")
_Item = TypeVar("_Item")


class _FirstMistake(FailFast):
    __hash__ = object.__hash__  # unions of types ask for it


# A list whose first mistake is told: an error for each of a million takes seconds, and gigabytes.
Some = Annotated[list[_Item], _FirstMistake()]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class ImageUrl(_Strict):
    url: str
    detail: Literal["auto", "low", "high"] | None = None  # OpenAI's own tiling; ours is the model's


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class ImagePart(_Strict):
    type: Literal["image_url"]
    image_url: ImageUrl | str


class Function(_Strict):
    name: str
    arguments: str = "{}"


class ToolCall(_Strict):
    id: str | None = None
    type: Literal["function"] = "function"
    function: Function


class ChatMessage(_Strict):
    """A turn. An answer of this server may be sent back as it came."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Some[TextPart | ImagePart] | None = Field(None)
    tool_calls: Some[ToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    refusal: None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None


class StreamOptions(_Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Asked(BaseModel):
    """Any body. What it has beyond its fields is looked over in `parse`."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    most_values: ClassVar[int] = _VALUES
    model: str | None = Field(None, max_length=1024)


class Generation(Asked):
    """What chat and completions share."""

    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=_INT64)
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    stop: str | Some[str] | None = Field(None, max_length=4096)
    n: int | None = Field(None, ge=1, le=MAX_ANSWERS)
    seed: int | None = Field(None, ge=-(2**63), le=_INT64)
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class Chat(Generation):
    """POST /v1/chat/completions"""

    messages: Some[ChatMessage] = Field(min_length=1, max_length=_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0)
    tools: Some[dict[str, Any]] | None = Field(None, max_length=_PARTS)
    tool_choice: Literal["auto", "none"] | None = None
    images: Some[str] | None = Field(None, max_length=_PARTS)  # ms-swift: pictures of the <image> tags
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None


class Text(Generation):
    """POST /v1/completions"""

    most_values = _IDS
    prompt: str | Some[str] | Some[int] | Some[Some[int]] = Field(max_length=_TOKENS << 5)
    logprobs: int | None = Field(None, ge=0)


class Score(Asked):
    """POST /score: is text_2 a good answer to text_1?"""

    text_1: str | Some[str] = Field(max_length=_TOKENS)
    text_2: str | Some[str] = Field(max_length=_TOKENS)


class Pooling(Asked):
    """POST /pooling: a conversation that ends with the answer."""

    messages: Some[ChatMessage] = Field(min_length=1, max_length=_MESSAGES)
    images: Some[str] | None = Field(None, max_length=_PARTS)


async def body_of(kind: type[Body], request: Request) -> Body:
    """The request's body. ApiError 415 for anything but JSON, which browsers do not send unasked to other hosts."""
    written = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if written != "application/json" and not written.endswith("+json"):
        raise ApiError(415, "send JSON with the header Content-Type: application/json")
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
    return parse(kind, data)


def parse(kind: type[Body], data: bytes | bytearray) -> Body:
    """A body as `kind`. ApiError 400 that names the field which is wrong."""
    if _values(data, kind.most_values) > kind.most_values:
        raise ApiError(413, f"a body of this route may have {kind.most_values} values")
    try:
        body = kind.model_validate_json(data)
    except ValidationError as error:
        raise _refusal(error, kind) from error
    for name, value in (body.model_extra or {}).items():
        if name in NO_EFFECT or value is None:
            continue
        if name not in NOT_OFFERED:
            known = (*kind.model_fields, *NO_EFFECT)
            raise ApiError(400, f"unknown field {name[:64]!r}{suggestion(name[:64], known)}", param=name[:64])
        if not any(type(value) is type(one) and value == one for one in NOT_OFFERED[name]):
            raise ApiError(400, f"{name} is not offered by this server", param=name, code="not_offered")
    return body


def _values(data: bytes | bytearray, most: int) -> int:
    """About how many keys and values a JSON text has; beyond `most` it is not counted to the end."""
    if data.count(b",") + data.count(b'"') <= most:
        return 0
    plain = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    texts = plain.count(b'"') // 2
    if texts > most:
        return texts
    return texts + sum(part.count(b",") for part in plain.split(b'"')[::2])


def _refusal(error: ValidationError, kind: type[BaseModel]) -> ApiError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part)[:64] for part in first["loc"])
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first['msg'][:200]}", code="invalid_json")
    if first["loc"] == ("prompt", "str"):
        return ApiError(400, "prompt: should be a text, a list of texts, token ids or lists of them", param="prompt")
    return ApiError(400, f"{where}: {first['msg'][:300]}" if where else first["msg"][:300], param=where or None)
