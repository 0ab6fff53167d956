"""Conversations as one text and back: the transcripts of HH, EXO and APO.

A single query is its own text. Several turns become `Human: ...` and `Assistant: ...`, each behind a blank line, with
an open `Assistant:` at the end; the answers that follow begin with a space.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Sequence

from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import Message, Row, Turns
from swiftlike.datasets_registry.turns import is_transcript, transcript_of

_NAMES = {"user": "Human", "assistant": "Assistant"}
_OPEN = "\n\nAssistant:"
_CANNOT = "cannot be a text"


def only_answer(row: Row, k: int) -> str:
    """The text of answer k. BadRow when it has several turns."""
    messages = row.completions[k].messages
    if len(messages) != 1:
        raise BadRow(_CANNOT, f"an answer of {len(messages)} turns")
    return messages[0].content


def as_transcript(messages: Sequence[Message]) -> str:
    """`\\n\\nHuman: ...\\n\\nAssistant: ...` without the system message. BadRow when it would not read back."""
    turns = [message for message in messages if message.role != "system"]
    for message in turns:
        if message.role not in _NAMES:
            raise BadRow(_CANNOT, f"a transcript has no turns of a {message.role}")
    text = "".join(f"\n\n{_NAMES[message.role]}: {message.content}" for message in turns)
    wanted = [(message.role, message.content.strip()) for message in turns]
    if not is_transcript(text) or [(one.role, one.content) for one in transcript_of(text, "it")] != wanted:
        raise BadRow(_CANNOT, "its turns would read differently in a transcript")
    return text


def as_texts(row: Row, transcript: bool) -> Row:
    """The row with each prompt as one user turn that holds its text; with `transcript` also single queries become
    transcripts. Turns that were read from a transcript are written as they stood there. System messages are left out.
    """

    def changed(prompt: Turns, answer: Message) -> tuple[Turns, str]:
        turns = [message for message in prompt.messages if message.role != "system"]
        if [message.role for message in turns] == ["user"] and (not transcript or is_open(turns[0].content)):
            text, said = turns[0].content, answer.content
        elif transcript and all(message.written for message in (*turns, answer)):
            text, said = "".join(message.written for message in turns), answer.written
        else:
            as_transcript((*turns, answer))  # refuses what would not read back
            text, said = as_transcript(turns) + _OPEN, f" {answer.content}"
        return dc.replace(prompt, messages=(Message("user", text),)), said

    return _each(row, changed)


def as_conversations(row: Row) -> Row:
    """The row with each prompt that is an open transcript taken apart into its turns, its answers without their first
    space."""

    def changed(prompt: Turns, answer: Message) -> tuple[Turns, str]:
        if len(prompt.messages) != 1 or not is_open(prompt.messages[0].content):
            return prompt, answer.content
        turns = transcript_of(prompt.messages[0].content, "the prompt")
        return dc.replace(prompt, messages=turns), answer.content.removeprefix(" ")

    return _each(row, changed)


def is_open(text: str) -> bool:
    """Whether a text is a transcript that waits for an answer."""
    return is_transcript(text) and text.rstrip().endswith(_OPEN.strip())


def _each(row: Row, change: Callable[[Turns, Message], tuple[Turns, str]]) -> Row:
    """Every prompt with its answer changed; answers that share a prompt still do."""
    prompts, completions = [], []
    for k in range(row.size):
        only_answer(row, k)
        prompt, answer = change(row.prompt_of(k), row.completions[k].messages[0])
        prompts.append(prompt)
        completions.append(dc.replace(row.completions[k], messages=(Message("assistant", answer),)))
    same = all(prompt == prompts[0] for prompt in prompts)
    return dc.replace(row, prompt=prompts[0], prompts=() if same else tuple(prompts), completions=tuple(completions))
