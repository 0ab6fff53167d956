"""Conversations as lists of `{"role": ..., "content": ...}`: the first turn and its system message."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from swiftlike.datasets_registry.card import BadRow

Chat = list[dict[str, str]]
Template = Callable[[Chat], str]  # messages to the text that a model continues
Count = Callable[[str], int]  # tokens of a text, without special tokens


def system_turn(text: str) -> dict[str, str]:
    """A system message."""
    return {"role": "system", "content": text}


def user_turn(text: str) -> dict[str, str]:
    """A user's message."""
    return {"role": "user", "content": text}


def assistant_turn(text: str) -> dict[str, str]:
    """An answer."""
    return {"role": "assistant", "content": text}


@dc.dataclass(frozen=True, slots=True)
class FirstTurn:
    """How a conversation begins. `system` None: no such message; `answer` None: not answered."""

    query: str
    answer: str | None
    system: str | None

    @property
    def prompt(self) -> Chat:
        """The messages before the answer."""
        return [*([] if self.system is None else [system_turn(self.system)]), user_turn(self.query)]


def first_turn(messages: Sequence[Mapping[str, Any]]) -> FirstTurn:
    """How a conversation begins. BadRow unless user and assistant alternate after an optional system message."""
    system = messages[0]["content"] if messages and messages[0]["role"] == "system" else None
    turns = messages if system is None else messages[1:]
    expected = ["user" if i % 2 == 0 else "assistant" for i in range(len(turns))]
    if not turns or [turn["role"] for turn in turns] != expected:
        raise BadRow("conversation", "user and assistant do not alternate")
    return FirstTurn(turns[0]["content"], turns[1]["content"] if len(turns) > 1 else None, system)
