"""Rows to records, one writer per format: what `shapes.to_row` reads, the other way round.

Writers of formats with a prompt of one text are handed rows in that form (`texts.as_texts`). BadRow when the format
has no place for what the row is.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from swiftlike.datasets_registry.apo import SEPARATOR
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import IMAGE_TAG, Image, Message, Row, Turns
from swiftlike.datasets_registry.texts import as_transcript, only_answer

Record = dict[str, Any]

CANNOT = "cannot be written"
_SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def swift_v2(row: Row) -> Record:
    """query, response and, where there is one, rejected_response or label; system, history and images beside them."""
    messages = list(_prompt(row).messages)
    record: Record = {}
    if messages and messages[0].role == "system":
        system = messages.pop(0).content
        record |= {"system": system} if system else {}
    if [message.role for message in messages] != ["user", *["assistant", "user"] * (len(messages) // 2)]:
        raise BadRow(CANNOT, "query and answer do not take turns")
    said = [message.content for message in messages]
    if len(said) > 1:
        record["history"] = [[said[k], said[k + 1]] for k in range(0, len(said) - 1, 2)]
    record |= {"query": said[-1], "response": only_answer(row, 0)}
    record |= {"rejected_response": only_answer(row, 1)} if row.size > 1 else {}
    return record | _verdict(row) | _images(row) | _beside(row)


def swift_v4(row: Row) -> Record:
    """messages with the (better) answer at the end; a rejected answer of several turns, or behind a prompt of its own,
    is a whole conversation in rejected_messages."""
    record: Record = {"messages": _messages(_whole(row, 0))}
    if row.size > 1:
        same = row.prompt_of(0).messages == row.prompt_of(1).messages
        if same and len(row.completions[1].messages) == 1:
            record["rejected_response"] = only_answer(row, 1)
        else:
            record["rejected_messages"] = _messages(_whole(row, 1))
    images = [_sources(_pictures(row, k)) for k in range(row.size)]
    record |= {"images": images[0]} if images[0] else {}
    record |= {"rejected_images": images[1]} if row.size > 1 and images[1] and images[1] != images[0] else {}
    return record | _verdict(row) | _beside(row)


def kto(row: Row) -> Record:
    """messages and label."""
    return swift_v4(row)


def trl(row: Row) -> Record:
    """TRL's conversational form: prompt with chosen and rejected, or with completion (and label), as message lists.

    Answers behind different prompts are whole conversations without a prompt column. Pictures stand as content parts
    in the text and as paths in `images`.
    """
    parts = bool(_images(row))
    names = ("chosen", "rejected") if row.size > 1 else ("completion",)
    if row.prompts:
        answers = {name: _messages(_whole(row, k), parts) for k, name in enumerate(names)}
    else:
        answers = {"prompt": _messages(row.prompt.messages, parts)}
        answers |= {name: _messages(row.completions[k].messages, parts) for k, name in enumerate(names)}
    record = answers | _verdict(row) | _images(row) | _beside(row)
    return record | ({"tools": json.loads(row.tools)} if row.tools else {})


def sharegpt(row: Row) -> Record:
    """conversations of {from, value}; a pair has chosen and rejected beside them, a verdict is kto_tag."""
    if row.size > 1:
        record: Record = {"conversations": _turns(_prompt(row).messages)}
        for k, name in enumerate(("chosen", "rejected")):
            only_answer(row, k)
            (record[name],) = _turns(row.completions[k].messages)
    else:
        record = {"conversations": _turns(_whole(row, 0))}
    record |= {"kto_tag": row.label} if row.label is not None else {}
    return record | _images(row) | ({"tools": row.tools} if row.tools else {})


def chat_pair(row: Row) -> Record:
    """AIPO: chosen and rejected as whole message lists, which share their first user turn and system message."""
    first = [_first_turn(row.prompt_of(k).messages) for k in range(row.size)]
    if first[0] != first[1]:
        raise BadRow(CANNOT, "chosen and rejected do not share the first user turn")
    return {name: _messages(_whole(row, k)) for k, name in enumerate(("chosen", "rejected"))} | _images(row)


def hh(row: Row) -> Record:
    """chosen and rejected as whole transcripts."""
    return {name: as_transcript(_whole(row, k)) for k, name in enumerate(("chosen", "rejected"))} | _images(row)


def exo_sft(row: Row) -> Record:
    """prompt and chosen, both texts."""
    return {"prompt": _text(row), "chosen": only_answer(row, 0)} | _images(row)


def exo_preference(row: Row) -> Record:
    """prompt, chosen and rejected, all texts."""
    return {"prompt": _text(row), "chosen": only_answer(row, 0), "rejected": only_answer(row, 1)} | _images(row)


def exo_reward(row: Row) -> Record:
    """prompt, completions and their rewards."""
    return {"prompt": _text(row), "completions": _answers(row), "rewards": list(row.scores)} | _images(row)


def exo_generated(row: Row) -> Record:
    """prompt and completions that have no rewards yet."""
    return {"prompt": _text(row), "completions": _answers(row)} | _images(row)


def apo_comparison(row: Row) -> Record:
    """text (query and answer around a separator), scores, and query_id and type where they are known."""
    queries = [row.prompt_of(k).messages[0].content for k in range(row.size)]
    if any(SEPARATOR in query for query in queries):
        raise BadRow(CANNOT, f"the query has {SEPARATOR} in it, which separates query and answer")
    texts = [query + SEPARATOR + answer for query, answer in zip(queries, _answers(row), strict=True)]
    record: Record = {"text": texts, "scores": list(row.scores)}
    record |= {"query_id": row.prompt_id} if row.prompt_id else {}
    return record | ({"type": row.mark} if row.mark else {}) | _images(row)


def apo_golden(row: Row) -> Record:
    """query_id, query and golden."""
    return {"query_id": row.prompt_id, "query": _text(row), "golden": only_answer(row, 0)} | _images(row)


def apo_sample(row: Row) -> Record:
    """query_id, query and sample_0, sample_1 ..."""
    samples = {f"sample_{k}": answer for k, answer in enumerate(_answers(row))}
    return {"query_id": row.prompt_id, "query": _text(row)} | samples | _images(row)


# -- parts of records -------------------------------------------------------------------------------------------------


def _prompt(row: Row) -> Turns:
    """The one prompt of all answers."""
    if row.prompts:
        raise BadRow(CANNOT, "its answers have different prompts, or pictures of their own")
    return row.prompt


def _whole(row: Row, k: int) -> tuple[Message, ...]:
    return row.prompt_of(k).messages + row.completions[k].messages


def _text(row: Row) -> str:
    return _prompt(row).messages[0].content


def _answers(row: Row) -> list[str]:
    return [only_answer(row, k) for k in range(row.size)]


def _first_turn(messages: Sequence[Message]) -> list[str]:
    first = next((k for k, message in enumerate(messages) if message.role == "user"), 0)
    return [message.content for message in messages[: first + 1]]


def _messages(messages: Sequence[Message], parts: bool = False) -> list[Record]:
    return [
        {"role": message.role, "content": _parts(message.content) if parts else message.content}
        | ({} if message.trained else {"loss": False})
        for message in messages
    ]


def _parts(text: str) -> list[Record]:
    found: list[Record] = []
    for number, piece in enumerate(text.split(IMAGE_TAG)):
        found += [{"type": "image"}] if number else []
        found += [{"type": "text", "text": piece}] if piece else []
    return found or [{"type": "text", "text": ""}]


def _turns(messages: Sequence[Message]) -> list[Record]:
    return [{"from": _SHAREGPT[message.role], "value": message.content} for message in messages]


def _verdict(row: Row) -> Record:
    return {} if row.label is None else {"label": row.label}


def _beside(row: Row) -> Record:
    return ({} if row.margin is None else {"margin": row.margin}) | ({"tools": row.tools} if row.tools else {})


def _pictures(row: Row, k: int) -> tuple[Image, ...]:
    return row.prompt_of(k).images + row.completions[k].images


def _images(row: Row) -> Record:
    """The pictures of a format with one list of them. An answer that shows fewer takes the first ones."""
    sets = [_pictures(row, k) for k in range(row.size)]
    longest = max(sets, key=len)
    if any(one != longest[: len(one)] for one in sets):
        raise BadRow(CANNOT, "its answers have pictures of their own; only swift_v4 has rejected_images")
    return {"images": _sources(longest)} if longest else {}


def _sources(images: Sequence[Image]) -> list[str]:
    return [one.source if isinstance(one.source, str) else base64.b64encode(one.source).decode() for one in images]
