"""Values of a record (message lists, transcripts, content parts, pictures) to messages and images."""

from __future__ import annotations

import ast
import contextlib
import dataclasses as dc
import json
import re
from typing import Any

from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import IMAGE_TAG, Image, Message

Said = tuple[tuple[Message, ...], tuple[Image, ...]]  # messages, and the pictures written inside them

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "ipython": "tool",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
_INLINE = re.compile(r"<img>(.+?)</img>", re.DOTALL)
_TRANSCRIPT = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_ANSWERED = "\n\nAssistant:"
_MAX_LITERAL = 1_000_000


def text_of(value: Any, where: str) -> str:
    """A value that must be text; numbers are written out. BadRow for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise BadRow("not text", f"{where} is {_type(value)}")


def content_of(value: Any, where: str) -> tuple[str, tuple[Image, ...]]:
    """Text with `<image>` tags, and the pictures named inside it.

    Understands plain text, v2's inline `<img>path</img>`, and lists of OpenAI content parts; a part that only marks the
    place of a picture gives a tag without a picture.
    """
    if value is None:
        return "", ()
    if isinstance(value, dict) and "type" in value:
        value = [value]
    if not isinstance(value, list):
        return _inline(text_of(value, where), where)
    texts: list[str] = []
    images: list[Image] = []
    for number, part in enumerate(value):
        text, found = _part(part, f"{where}[{number}]")
        texts.append(text)
        images.extend(found)
    return "".join(texts), tuple(images)


def _inline(text: str, where: str) -> tuple[str, tuple[Image, ...]]:
    if "<img>" not in text:
        return text, ()
    sources = _INLINE.findall(text)
    if sources and IMAGE_TAG in text:
        raise BadRow("two image notations", f"{where} has both <image> and <img>...</img>")
    return _INLINE.sub(IMAGE_TAG, text), tuple(Image(source.strip()) for source in sources)


def _part(part: Any, where: str) -> tuple[str, tuple[Image, ...]]:
    if isinstance(part, str):
        return part, ()
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return text_of(part.get("text") or "", f"{where}.text"), ()
    if kind in ("image", "image_url", "input_image"):
        source = next((part[key] for key in ("image", "image_url", "url", "path", "source") if part.get(key)), None)
        return IMAGE_TAG, () if source is None else (image_of(source, where),)
    raise BadRow("unknown content part", f"{where} has type {kind!r}; text and image are known")


def image_of(value: Any, where: str) -> Image:
    """A path, URL, data URL, base64 text, bytes, {"bytes", "path"} or {"url"}. BadRow for anything else."""
    if isinstance(value, dict):
        found = next((value[key] for key in ("bytes", "url", "path", "image", "data") if value.get(key)), None)
        if found is None:
            raise BadRow("image is empty", f"{where} names neither bytes nor a path")
        value = found
    if isinstance(value, bytes | bytearray | memoryview):
        return Image(bytes(value))
    if isinstance(value, str) and value.strip():
        return Image(value.strip())
    raise BadRow("image is empty" if value in ("", None) else "not an image", f"{where} is {_type(value)}")


def images_of(value: Any, where: str) -> tuple[Image, ...]:
    """One picture or a list of them; a JSON list in text (CSV) is read too. Nothing, or only nulls, is no picture."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = literal(value, where)
    if value in (None, "", b""):
        return ()
    if not isinstance(value, list | tuple):
        value = [value]
    if all(one is None for one in value):
        return ()
    return tuple(image_of(one, f"{where}[{number}]") for number, one in enumerate(value))


def literal(text: str, where: str) -> Any:
    """JSON or a Python literal that a CSV cell or a v2 `history` string holds."""
    if len(text) > _MAX_LITERAL:
        raise BadRow("cannot be read", f"{where} is a text of {len(text)} characters where a list is expected")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise BadRow("cannot be read", f"{where} is neither JSON nor a Python list") from error


def messages_of(value: Any, where: str) -> Said:
    """Messages from a list of {role, content}, {from, value} or {human, assistant}, or from one such dict."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        value = literal(value, where)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list | tuple):
        raise BadRow("not a list of messages", f"{where} is {_type(value)}")
    messages: list[Message] = []
    images: list[Image] = []
    for number, entry in enumerate(value):
        said, found = _entry(entry, f"{where}[{number}]")
        messages.extend(said)
        images.extend(found)
    if not messages:
        raise BadRow("no messages", f"{where} is empty")
    return tuple(messages), tuple(images)


def _entry(entry: Any, where: str) -> Said:
    if not isinstance(entry, dict):
        raise BadRow("not a message", f"{where} is {_type(entry)}")
    if "human" in entry or ("assistant" in entry and "role" not in entry):
        return _exchange(entry, where)
    who = entry.get("role", entry.get("from"))
    if who is None:
        raise BadRow("not a message", f"{where} has {', '.join(map(str, entry)) or 'no keys'}, not role and content")
    role = ROLES.get(str(who).lower())
    if role is None:
        raise BadRow("unknown role", f"{where} is from {who!r}; known are {', '.join(sorted(ROLES))}")
    body = next((entry[key] for key in ("content", "value", "text") if entry.get(key) is not None), None)
    text, images = content_of(body, where)
    calls = entry.get("tool_calls")
    if calls:
        text = "\n".join([*([text] if text else []), *(_call(call, where) for call in calls)])
    elif body is None:
        raise BadRow("empty message", f"{where} has no content")
    return (Message(role, text, trained=_counts(entry, where)),), images


def _exchange(entry: dict[str, Any], where: str) -> Said:
    messages: list[Message] = []
    images: tuple[Image, ...] = ()
    for key, role in (("system", "system"), ("human", "user"), ("user", "user"), ("assistant", "assistant")):
        if entry.get(key) is not None:
            text, found = content_of(entry[key], f"{where}.{key}")
            messages.append(Message(role, text))
            images += found
    return tuple(messages), images


def _counts(entry: dict[str, Any], where: str) -> bool:
    """The `loss` key of a message: False leaves the turn out of an SFT loss."""
    loss = entry.get("loss")
    if loss is None or isinstance(loss, bool):
        return loss is not False
    raise BadRow("loss is not true or false", f"{where}.loss is {loss!r}")


def _call(call: Any, where: str) -> str:
    """An OpenAI tool call as tagged JSON, the notation that Hermes and Qwen templates use."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or "name" not in function:
        raise BadRow("unknown tool call", where)
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError, RecursionError):  # else a model's own text, kept as it is
            arguments = json.loads(arguments)
    body = as_json({"name": function["name"], "arguments": arguments}, where)
    return f"<tool_call>\n{body}\n</tool_call>"


def as_json(value: Any, where: str) -> str:
    """A value as JSON. BadRow for what JSON does not have, such as the bytes and dates of a parquet file."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRow("cannot be written as JSON", f"{where}: {error}") from None


def history_of(value: Any, where: str) -> Said:
    """v2's history: a list of [query, answer], or its text, or messages."""
    if isinstance(value, str):
        value = literal(value, where) if value.strip() else []
    if not value:
        return (), ()
    if not isinstance(value, list | tuple):
        raise BadRow("broken history", f"{where} is {_type(value)}")
    if isinstance(value[0], dict):
        return messages_of(value, where)
    messages: list[Message] = []
    images: tuple[Image, ...] = ()
    for number, pair in enumerate(value):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise BadRow("broken history", f"{where}[{number}] is not [query, answer]")
        for role, said in zip(("user", "assistant"), pair, strict=True):
            text, found = content_of(said, f"{where}[{number}]")
            messages.append(Message(role, text))
            images += found
    return tuple(messages), images


def is_transcript(value: Any) -> bool:
    """Whether a text is a dialogue in Anthropic's notation: it begins with `Human:`."""
    return isinstance(value, str) and value.lstrip("\n").startswith("Human:")


def transcript_of(text: str, where: str) -> tuple[Message, ...]:
    """`\\n\\nHuman: ...\\n\\nAssistant: ...` as messages. An empty last `Assistant:` (a prompt) is left out."""
    marks = list(_TRANSCRIPT.finditer(text))
    if not marks or text[: marks[0].start()].strip():
        raise BadRow("broken transcript", f"{where} does not begin with Human: or Assistant:")
    messages: list[Message] = []
    begins = [0, *(mark.start() if mark[1] == "Human" else mark.end() for mark in marks[1:])]
    for mark, after, begin, end in zip(marks, [*marks[1:], None], begins, [*begins[1:], len(text)], strict=True):
        said = text[mark.end() : after.start() if after else len(text)].strip()
        role = ROLES[mark[1].lower()]
        if said or after:
            messages.append(Message(role, said, written=text[begin:end]))
        elif messages:  # what an answer is to follow belongs to the prompt
            messages[-1] = dc.replace(messages[-1], written=messages[-1].written + text[begin:end])
    if not messages:
        raise BadRow("no messages", f"{where} is an empty transcript")
    return tuple(messages)


def split_transcript(text: str) -> tuple[str, str]:
    """A dialogue as it is written, up to and including its last `\\n\\nAssistant:`, and the answer behind it, which
    keeps its leading space. BadRow when nobody answers."""
    before, mark, answer = text.rpartition(_ANSWERED)
    if not mark:
        raise BadRow("broken transcript", "there is no Assistant: in it")
    return before + mark, answer


def _type(value: Any) -> str:
    names = {type(None): "null", dict: "an object", list: "a list", bool: "true or false", bytes: "bytes"}
    return names.get(type(value), f"a {type(value).__name__}")
