"""One record of any known format to a Row."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping as Columns
from collections.abc import Sequence
from typing import Any

from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.columns import Mapping, is_whole, recognise
from swiftlike.datasets_registry.row import IMAGE_TAG, Image, Message, Row, Turns
from swiftlike.datasets_registry.turns import (
    Said,
    as_json,
    content_of,
    history_of,
    images_of,
    is_transcript,
    messages_of,
    text_of,
    transcript_of,
)

_SEPARATOR = "<sep>"
_LARGEST = 1e30  # of a score
# Columns of ms-swift that change what a row means: to leave them out in silence would train on something else.
UNREADABLE = ("videos", "video", "audios", "audio", "rejected_videos", "rejected_audios", "objects")


def to_row(record: Columns[str, Any], kind: str = "auto") -> tuple[Row, Mapping]:
    """Recognise a record and read it. The row is of the kind the record offers; `kind` only settles ties.

    BadRow with the reason when the record is broken or of no known format.
    """
    for column in UNREADABLE:
        if record.get(column):
            raise BadRow(
                "not supported", f"the column {column} is not empty; pictures are the only media that are read"
            )
    mapping = recognise(record, kind)
    got = {ours: (theirs, record[theirs]) for theirs, ours in mapping.pairs}
    readers = {"pair": _pair, "ranked": _ranked, "labelled": _single, "completion": _single, "prompt": _no_answer}
    return readers[mapping.kind](got), mapping


Got = dict[str, tuple[str, Any]]  # our column -> (their column, value)


def _no_answer(got: Got) -> Row:
    prompt, inline = _prompt(got)
    (turns,) = _prompts([(prompt, ())], [inline], [_images(got, "images")])
    return Row(prompt=turns[0], completions=(), tools=_tools(got))


def _single(got: Got) -> Row:
    prompt, inline = _prompt(got)
    if "completion" in got:
        said, pictures = _answer(got["completion"])
        prompt, completion = _split((*prompt, *said) if not _starts_over(said) else said)
        inline += pictures
    else:
        prompt, completion = _split(prompt)
    ((asked, answered),) = _prompts([(prompt, completion)], [inline], [_images(got, "images")])
    return Row(prompt=asked, completions=(answered,), label=_label(got), tools=_tools(got))


def _pair(got: Got) -> Row:
    prompt, inline = _prompt(got)
    images = _images(got, "images")
    if "chosen" in got:
        chosen = _answer(got["chosen"])
        if prompt[-1:] == chosen[0]:  # the conversation repeats the chosen answer
            prompt = prompt[:-1]
        whole = _complete(prompt, chosen, inline)
    else:
        whole = (prompt, inline)
        prompt, _ = _split(prompt)
    if "rejected" in got:
        own, pictures = _answer(got["rejected"])
        prompt = prompt if "chosen" not in got or not is_whole(got["chosen"][1]) else ()
        spoken = sum(message.tags for message in prompt)
        other = _complete(prompt, (own, pictures), inline[:spoken])
    else:
        other = whole
    sets = [images, _images(got, "rejected_images") or images]
    turns = _prompts(_divide([whole[0], other[0]]), [whole[1], other[1]], sets)
    return _row(turns, margin=_number(got, "margin"), tools=_tools(got))


def _ranked(got: Got) -> Row:
    theirs, answers = got["completions"]
    scores = _scores(got["scores"])
    if len(answers) != len(scores):
        raise BadRow("scores do not match answers", f"{len(answers)} in {theirs}, {len(scores)} in {got['scores'][0]}")
    if "prompt" in got:
        prompt, inline = _prompt(got)
        whole = [_complete(prompt, _answer((f"{theirs}[{k}]", answer)), inline) for k, answer in enumerate(answers)]
        divided = [_split(messages) for messages, _ in whole]
    else:
        divided = [_separated(answer, f"{theirs}[{k}]") for k, answer in enumerate(answers)]
        whole = [((), ()) for _ in answers]
    turns = _prompts(divided, [inline for _, inline in whole], [_images(got, "images")] * len(divided))
    marks = {key: str(got[key][1]) for key in ("mark", "prompt_id") if key in got}
    return _row(turns, scores=scores, tools=_tools(got), **marks)


def _row(turns: Sequence[tuple[Turns, Turns]], **values: Any) -> Row:
    prompts = tuple(prompt for prompt, _ in turns)
    same = all(prompt == prompts[0] for prompt in prompts)
    completions = tuple(completion for _, completion in turns)
    return Row(prompt=prompts[0], completions=completions, prompts=() if same else prompts, **values)


def _prompt(got: Got) -> Said:
    """The messages before the answer (or the whole conversation when the answer is its last turn)."""
    if "prompt" not in got:
        return _system(got, (), ()) if "system" in got else ((), ())
    where, value = got["prompt"]
    if _is_messages(value):
        return _system(got, *messages_of(value, where))
    if is_transcript(value) and value.rstrip().endswith("Assistant:"):
        return _system(got, transcript_of(value, where), ())
    text, images = content_of(value, where)
    if "input" in got:
        more, found = content_of(got["input"][1], got["input"][0])
        text, images = (f"{text}\n{more}" if text and more else text or more), images + found
    past, before = history_of(got["history"][1], got["history"][0]) if "history" in got else ((), ())
    return _system(got, (*past, Message("user", text)), before + images)


def _is_messages(value: Any) -> bool:
    if isinstance(value, str):
        return value.lstrip().startswith("[{")
    return isinstance(value, list) and any(isinstance(entry, dict) and "type" not in entry for entry in value)


def _system(got: Got, messages: tuple[Message, ...], images: tuple[Image, ...]) -> Said:
    where, value = got.get("system", ("", None))
    if not value or (messages and messages[0].role == "system"):
        return messages, images
    return (Message("system", text_of(value, where)), *messages), images


def _answer(column: tuple[str, Any]) -> Said:
    where, value = column
    if is_transcript(value):
        return transcript_of(value, where), ()
    if _is_messages(value) or (isinstance(value, dict) and "type" not in value):
        return messages_of(value, where)
    if isinstance(value, list) and value and isinstance(value[0], str):
        raise BadRow("several answers in one column", f"{where} is a list of {len(value)} texts without scores")
    text, images = content_of(value, where)
    return (Message("assistant", text),), images


def _starts_over(said: tuple[Message, ...]) -> bool:
    return said[0].role != "assistant"


def _complete(prompt: tuple[Message, ...], said: Said, inline: tuple[Image, ...]) -> Said:
    """Prompt and answer as one conversation; an answer that holds the whole conversation stands alone."""
    messages, images = said
    if _starts_over(messages):
        system = prompt[:1] if prompt and prompt[0].role == "system" and messages[0].role != "system" else ()
        return (*system, *messages), images
    if prompt and prompt[-1].role == "assistant":
        raise BadRow("two answers", "the conversation already ends with an assistant turn")
    return (*prompt, *messages), inline + images


def _split(messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    if not messages or messages[-1].role != "assistant":
        who = f"the last message is from {messages[-1].role}" if messages else "there are no messages"
        raise BadRow("no answer", who)
    return messages[:-1], messages[-1:]


def _divide(whole: Sequence[tuple[Message, ...]]) -> list[tuple[tuple[Message, ...], tuple[Message, ...]]]:
    """Conversations to (prompt, completion): the shared beginning, else each one's last turn.

    A completion may have several turns (tool calls and their results) but none of the user: where two conversations
    part before a user turn, only the last answer of each is compared, behind prompts of its own.
    """
    for messages in whole:
        _split(messages)
    shortest = min(len(messages) for messages in whole) - 1
    shared = next((k for k in range(shortest) if len({messages[k] for messages in whole}) > 1), shortest)
    rests = [messages[shared:] for messages in whole]
    if all(rest[0].role == "assistant" and all(one.role != "user" for one in rest) for rest in rests):
        return [(messages[:shared], messages[shared:]) for messages in whole]
    return [_split(messages) for messages in whole]


def _separated(text: Any, where: str) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    query, mark, answer = text_of(text, where).partition(_SEPARATOR)
    if not mark:
        raise BadRow("no separator", f"{where} has no {_SEPARATOR} between query and answer")
    return (Message("user", query),), (Message("assistant", answer),)


def _images(got: Got, name: str) -> tuple[Image, ...]:
    return images_of(got[name][1], got[name][0]) if name in got else ()


def _prompts(
    divided: Sequence[tuple[tuple[Message, ...], tuple[Message, ...]]],
    inline: Sequence[tuple[Image, ...]],
    columns: Sequence[tuple[Image, ...]],
) -> list[tuple[Turns, Turns]]:
    """Give each conversation its pictures: those written inside it, or those of its column, in the order of the tags.

    Without any tag, tags are put before the first query. BadRow when tags and pictures do not agree.
    """
    if any(inline) and any(columns):
        raise BadRow("two image notations", "pictures stand both inside the text and in a column of their own")
    found: list[tuple[Turns, Turns]] = []
    files = [own or column for own, column in zip(inline, columns, strict=True)]
    if any(files) and not any(message.tags for pair in divided for part in pair for message in part):
        divided = [(_tagged(asked, len(own)), answered) for (asked, answered), own in zip(divided, files, strict=True)]
    left: dict[tuple[Image, ...], int] = {}
    for (asked, answered), own in zip(divided, files, strict=True):
        before = sum(message.tags for message in asked)
        after = before + sum(message.tags for message in answered)
        if after > len(own):
            raise BadRow("more image tags than images", f"{after} tags, {len(own)} images")
        left[own] = min(left.get(own, len(own)), len(own) - after)
        found.append((Turns(asked, own[:before]), Turns(answered, own[before:after])))
    for own, unused in left.items():
        if unused:
            raise BadRow("more images than image tags", f"{len(own) - unused} tags, {len(own)} images")
    return found


def _tagged(messages: tuple[Message, ...], count: int) -> tuple[Message, ...]:
    first = next((k for k, message in enumerate(messages) if message.role == "user"), None)
    if first is None:
        raise BadRow("no user turn", "there is no query to put the image before")
    query = Message("user", IMAGE_TAG * count + messages[first].content)
    return (*messages[:first], query, *messages[first + 1 :])


def _label(got: Got) -> bool | None:
    if "label" not in got:
        return None
    where, value = got["label"]
    if not isinstance(value, bool):
        shown = f"the text {value!r}" if isinstance(value, str) else repr(value)
        raise BadRow("label is not true or false", f"{where} is {shown}; JSON has true and false without quotes")
    return value


def _number(got: Got, name: str) -> float | None:
    if name not in got:
        return None
    where, value = got[name]
    if value == "":  # an empty CSV cell
        return None
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise BadRow(f"{name} is not a number", f"{where} is {value!r}")
    return number


def _scores(column: tuple[str, Any]) -> tuple[float, ...]:
    where, values = column
    scores = tuple(_number({"score": (f"{where}[{k}]", value)}, "score") or 0.0 for k, value in enumerate(values))
    if any(abs(score) > _LARGEST for score in scores):
        raise BadRow("score is too large", f"{where} is {values!r}; training computes with 32 bits")
    return scores


def _tools(got: Got) -> str:
    where, value = got.get("tools", ("", None))
    if not value:
        return ""
    if not isinstance(value, str):
        return as_json(value, where)
    try:
        json.loads(value)
    except (ValueError, RecursionError) as error:
        raise BadRow("tools are not JSON", f"{where}: {error}") from error
    return value
