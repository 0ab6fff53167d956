"""The chat formats that AIPO's recipes name: its own where they differ from the families', and its exact text."""

from __future__ import annotations

import dataclasses as dc
import re
from collections.abc import Sequence
from typing import NamedTuple

from swiftlike.core.errors import UserError, suggestion
from swiftlike.model_registry.card import TemplateCard
from swiftlike.model_registry.llama import LLAMA2
from swiftlike.model_registry.mistral import MISTRAL_INSTRUCT, VICUNA, ZEPHYR
from swiftlike.model_registry.render import Turn, segments

# White space around questions and answers stays.
AIPO_MISTRAL = dc.replace(MISTRAL_INSTRUCT, name="aipo_mistral-instruct", strip=("system",))
# The first token is only written before a system text.
AIPO_VICUNA = dc.replace(VICUNA, name="aipo_vicuna", bos=False, system=f"<s>{VICUNA.system}")

FORMATS = {"mistral-instruct": AIPO_MISTRAL, "llama": LLAMA2, "vicuna": AIPO_VICUNA, "zephyr": ZEPHYR}
_OPENINGS = {"vicuna": "ASSISTANT:", "zephyr": "<|assistant|>\n"}  # what asks for an answer after a question
_TOKEN = re.compile(r"</?s>")
_GUARD = "\0"  # stands where white space, or nothing at all, has to survive rendering


class _Said(NamedTuple):
    role: str
    content: str


def aipo_format(name: str) -> TemplateCard:
    """The card of a `chat_template` of AIPO's recipes. UserError when there is none."""
    if name not in FORMATS:
        raise UserError(f"AIPO has no chat template {name!r}{suggestion(name, FORMATS)}")
    return FORMATS[name]


def aipo_text(
    name: str, messages: Sequence[Turn], *, add_generation_prompt: bool = True, bos: str = "<s>", eos: str = "</s>"
) -> str:
    """AIPO's text of messages that end with the user's, its first token included, for a tokenizer's bos and eos."""
    card = _with_tokens(aipo_format(name), bos, eos)
    pieces = segments(card, _guarded(card, messages), add_generation_prompt=True)
    text = (bos if card.bos else "") + "".join(piece for piece, _ in pieces).replace(_GUARD, "")
    return text if add_generation_prompt else text.removesuffix(_OPENINGS.get(name, ""))


def _guarded(card: TemplateCard, messages: Sequence[Turn]) -> list[Turn]:
    """AIPO writes the block of an empty system message, and strips the question only together with that block."""
    turns: list[Turn] = list(messages)
    if turns and turns[0].role == "system":
        text = turns[0].content.strip() if "system" in card.strip else turns[0].content
        turns[0] = _Said("system", text or _GUARD)
        if card.system_in_user and len(turns) > 1:
            turns[1] = _Said(turns[1].role, _GUARD + turns[1].content)
    return turns


def _with_tokens(card: TemplateCard, bos: str, eos: str) -> TemplateCard:
    """The card with other special tokens than `<s>` and `</s>`."""
    fields = ("user", "stop", "system", "system_in_user", "between")
    texts = {
        field: _TOKEN.sub(lambda found: eos if found[0] == "</s>" else bos, getattr(card, field)) for field in fields
    }
    return dc.replace(card, **texts)
