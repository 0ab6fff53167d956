"""Answers to a prompt in formats that hold a prompt as one text."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence

from swiftlike.datasets_registry.formats import ANY, FORMATS, Format, lost, spoken
from swiftlike.datasets_registry.row import Message, Row, Turns


def is_transcript(row: Row) -> bool:
    """Whether the prompt was read from a text of `Human:` and `Assistant:`."""
    said = [message for message in row.prompt.messages if message.role != "system"]
    return bool(said) and all(message.written for message in said)


def in_text(row: Row, answers: Sequence[str], target: Format, *, spaced: bool) -> tuple[Row, list[str]]:
    """The row with a prompt of one text and these answers, and what of it the format has no place for.

    In a transcript an answer begins with a space; `spaced` says that the answers to a prompt that is one already have
    it, as those of EXO's files and of models that continue transcripts do.
    """
    transcript = is_transcript(row)
    source = FORMATS["hh"] if transcript else ANY
    # the prompt is made a text with an answer that reads back; what a model writes may not
    asking = dc.replace(row, prompts=(), scores=(), completions=(Turns((Message("assistant", "x", written=" x"),)),))
    text = spoken(asking, source, target)
    space = "" if transcript and spaced else text.completions[0].messages[0].content.removesuffix("x")
    said = [space + (answer.removeprefix(" ") if space else answer) for answer in answers]
    return dc.replace(text, completions=tuple(Turns((Message("assistant", one),)) for one in said)), lost(
        asking, source, target
    )


def in_conversation(row: Row) -> Row:
    """The row with its answers as a chat shows them: without the space that begins one in a transcript."""
    if not is_transcript(row):
        return row
    completions = [
        dc.replace(turns, messages=(dc.replace(first, content=first.content.removeprefix(" ")), *rest))
        for turns in row.completions
        for first, *rest in [turns.messages]
    ]
    return dc.replace(row, completions=tuple(completions))
