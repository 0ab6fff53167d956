"""Messages to text by a TemplateCard."""

from __future__ import annotations

import dataclasses as dc
import re
from collections.abc import Sequence
from typing import Protocol

from swiftlike.core.errors import UserError
from swiftlike.model_registry.card import TemplateCard

_PLACE = re.compile(r"\{(query|system|answer|eos|sep)\}")
_THINKING = re.compile(r"^.*</think>\n*", re.DOTALL)
_OWN_TEMPLATE = "--template chat_template uses the checkpoint's own template instead"


class Turn(Protocol):
    """What is read of a message; `datasets_registry.row.Message` fits."""

    @property
    def role(self) -> str: ...
    @property
    def content(self) -> str: ...


@dc.dataclass(frozen=True, slots=True)
class _Round:
    query: str
    answer: str | None  # None: to be generated


def bind(card: TemplateCard, eos: str, adds_bos: bool, sep: str = "") -> TemplateCard:
    """The card with the tokenizer's end token in place of `{eos}`, its separator in place of `{sep}`, and `bos="auto"`
    decided.

    `adds_bos`: whether the tokenizer by itself puts its first token before a text.
    """
    bos = adds_bos if card.bos == "auto" else card.bos
    return dc.replace(card, stop=_fill(card.stop, eos=eos), user=_fill(card.user, sep=sep), bos=bos)


def segments(
    card: TemplateCard,
    messages: Sequence[Turn],
    add_generation_prompt: bool = False,
    system: str | None = "",
) -> list[tuple[str, bool]]:
    """Pieces (text, is_answer) whose concatenation is the conversation's text, without the tokenizer's bos.

    There is exactly one answer piece per assistant message, in order, and it ends with the stop text. `messages` are
    an optional system message and rounds of a user (or tool) message and an assistant message; the last message is
    the assistant's, or the user's with `add_generation_prompt`. `system` is used when the messages have none of their
    own: "" for none, None for the card's default. UserError when the format has no place for something.
    """
    own, rest = _system(messages)
    if own is None:
        own = card.default_system if system is None else system
    rounds = _rounds(card, rest)
    if (rounds[-1].answer is None) != add_generation_prompt:
        raise ValueError("add_generation_prompt goes with messages that end with the user's")
    if card.rounds and len(rounds) > card.rounds:
        raise UserError(f"template {card.name!r} is for a single question and answer, not {len(rounds)} rounds")
    own = own.strip() if "system" in card.strip else own
    if own and not (card.system or card.system_in_user):
        raise UserError(f"template {card.name!r} has no place for a system message", _OWN_TEMPLATE)
    pieces: list[tuple[str, bool]] = []
    lead = _fill(card.system, system=own) if card.system and (own or card.system_always) else ""
    place = len(rounds) - 1 if card.system_in_last else 0
    for i, one in enumerate(rounds):
        inside = own and card.system_in_user and i == place
        text = card.system_in_user if inside else card.user
        pieces.append((lead + _fill(text, query=one.query, system=own), False))
        if one.answer is not None:
            pieces.append((_answer(card, one.answer, last=i == len(rounds) - 1), True))
        lead = card.between
    return pieces


def _fill(text: str, **values: str) -> str:
    """Replace `{name}` by its value in one pass, so that a value with braces in it stays as it is."""
    return _PLACE.sub(lambda found: values.get(found[1], found[0]), text)


def _system(messages: Sequence[Turn]) -> tuple[str | None, Sequence[Turn]]:
    """The text of a leading system message, None without one, and the other messages."""
    if messages and messages[0].role == "system":
        return messages[0].content, messages[1:]
    return None, messages


def _rounds(card: TemplateCard, messages: Sequence[Turn]) -> list[_Round]:
    rounds: list[_Round] = []
    results: list[str] = []  # of tools, since the last answer
    for message in messages:
        opened = bool(rounds) and rounds[-1].answer is None
        if message.role == "tool":
            if not card.tool:
                raise UserError(f"template {card.name!r} has no place for tool results", _OWN_TEMPLATE)
            if opened and not results:
                raise UserError("a tool result follows a user message without an answer between them")
            results.append(_fill(card.tool, query=message.content))
            shown = _Round("\n".join(results), None)
            rounds = [*rounds[:-1], shown] if opened else [*rounds, shown]
        elif message.role == "user":
            if opened:
                raise UserError("two user messages follow each other without an answer between them")
            rounds.append(_Round(_text(card, message), None))
        elif message.role == "assistant":
            if not opened:
                raise UserError("an assistant message has no user message before it")
            rounds[-1] = dc.replace(rounds[-1], answer=_text(card, message))
            results = []
        else:
            raise UserError(f"a {message.role} message can only be the first one, and only if it is the system's")
    if not rounds:
        raise UserError("there is no user message")
    return rounds


def _text(card: TemplateCard, message: Turn) -> str:
    return message.content.strip() if message.role in card.strip else message.content


def _answer(card: TemplateCard, text: str, last: bool) -> str:
    """An answer with its stop. Where the format has thinking, only the last answer keeps its own."""
    if card.thought and not last:
        text = _THINKING.sub("", text)
    elif card.thought and "</think>" not in text:
        text = card.thought + text.lstrip("\n")
    return _fill(card.answer, answer=text) + card.stop
