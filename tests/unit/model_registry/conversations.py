"""Made-up conversations for chat templates, and how their rendering is written down."""

from __future__ import annotations

from pathlib import Path

from swiftlike.datasets_registry.row import Message
from swiftlike.model_registry.card import TemplateCard
from swiftlike.model_registry.render import bind, segments

GOLDEN = Path(__file__).parents[2] / "golden" / "templates"

SYSTEM = Message("system", "Answer like a sailor.")
ROUND = (Message("user", "Which way is {north}?"), Message("assistant", "Towards the cold, mate."))
AGAIN = (Message("user", " And if it is warm there?\n"), Message("assistant", "\nThen you sail the other way. "))

CASES: dict[str, tuple[Message, ...]] = {
    "one round": ROUND,
    "to be answered": ROUND[:1],
    "two rounds": (*ROUND, *AGAIN),
    "system": (SYSTEM, *ROUND),
    "system, two rounds": (SYSTEM, *ROUND, *AGAIN),
    "system, second to be answered": (SYSTEM, *ROUND, AGAIN[0]),
}


def fits(card: TemplateCard, messages: tuple[Message, ...]) -> bool:
    """Whether the format has a place for all of it."""
    rounds = sum(message.role == "user" for message in messages)
    has_system = bool(card.system or card.system_in_user) or messages[0].role != "system"
    return has_system and not (card.rounds and rounds > card.rounds)


def text(card: TemplateCard, messages: tuple[Message, ...], system: str | None = "") -> str:
    """The whole conversation's text."""
    opened = messages[-1].role != "assistant"
    return "".join(piece for piece, _ in segments(card, messages, opened, system=system))


def written(card: TemplateCard) -> str:
    """All conversations by one card, answers between ⟦ and ⟧: what a golden file holds."""
    bound = bind(card, eos="</s>", adds_bos=True, sep="<sep>")
    parts = [f"bos: {'yes' if bound.bos else 'no'}\n"]
    for name, messages in CASES.items():
        if not fits(card, messages):
            continue
        pieces = segments(bound, messages, messages[-1].role != "assistant", system=None)
        marked = "".join(f"⟦{piece}⟧" if is_answer else piece for piece, is_answer in pieces)
        parts.append(f"=== {name}\n{marked}\n")
    return "".join(parts)
