"""The texts of self-instruct (Wang et al. 2023, as AIPO uses it): the prompt, where to stop, what an answer holds."""

from __future__ import annotations

import dataclasses as dc
import re
import string
from collections.abc import Sequence
from typing import Literal

from swiftlike.stages.conversation import Count

# v1: AIPO's, exactly. v2: keeps case, cuts at whole words only, and checks lengths of what is left after the cut.
Parser = Literal["v1", "v2"]

_SPACE = re.compile(r"\s+")
_NEXT = re.compile(r"\n\d+\s?\. ")
# what a model that reads text only cannot do
_UNSUITABLE = re.compile(r"\b(images?|graphs?|pictures?|files?|maps?|draw|plot|go to)\b", re.IGNORECASE)
_ANSWERS = ("answer:", "output:", "solution:", "a:")
_ANSWER = re.compile(r"answer:|output:|solution:|(?<!\S)a:", re.IGNORECASE)
_TASKS = ("detailed instructions:", "task definition:")


@dc.dataclass(frozen=True, kw_only=True)
class Parsing:
    """How the answers of a model become instructions; lengths in tokens, both included."""

    parser: Parser = "v2"
    prompt_min_length: int = 4
    prompt_max_length: int = 512
    additional_filtering: bool = True

    def fits(self, text: str, count: Count) -> bool:
        """Whether the text's length is within the limits."""
        return self.prompt_min_length <= count(text) <= self.prompt_max_length


def prompt_text(instructions: Sequence[str]) -> str:
    """A numbered list that a model continues with the next number."""
    lines = [f"{i}. {_one_line(text).rstrip(':')}" for i, text in enumerate(instructions, start=1)]
    return "\n".join(["Come up with a series of tasks:", "", *lines, f"{len(lines) + 1}."])


def stop_strings(shown: int, wanted: int, parser: Parser = "v2") -> list[str]:
    """What ends an answer that begins as item `shown + 1` of a list and is to hold `wanted` items.

    v1 stops one item too early, so that two wanted give one, and one wanted gives no end to the first.
    """
    last = shown + wanted + (parser == "v2")
    return ["\n\n", f"\n{last}", f"{last}.", f"{last} ."]


def cut_at(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stops: engines differ in whether they leave the stop in."""
    return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))]


def parse(response: str, parsing: Parsing, count: Count) -> list[str]:
    """The instructions in an answer, those left out that are unsuitable or of the wrong length."""
    read = _read_v1 if parsing.parser == "v1" else _read_v2
    found = (read(_one_line(piece), parsing, count) for piece in _NEXT.split(response))
    return [text for text in found if text is not None]


def _read_v1(text: str, parsing: Parsing, count: Count) -> str | None:
    """Lower-cases all but the first letter, cuts inside words, and does not look at what the cut leaves."""
    text = text.capitalize()
    if not text or not parsing.fits(text, count) or not _is_suitable(text, parsing):
        return None
    if parsing.additional_filtering and "example:" not in text.lower():
        for word in _ANSWERS:
            place = text.lower().find(word)
            text = text if place < 0 else text[:place].strip()
    return text


def _read_v2(text: str, parsing: Parsing, count: Count) -> str | None:
    text = text[:1].upper() + text[1:]
    if not text or not _is_suitable(text, parsing):
        return None
    if parsing.additional_filtering and "example:" not in text.lower() and (found := _ANSWER.search(text)):
        text = text[: found.start()].strip()
    return text if text and parsing.fits(text, count) else None


def _is_suitable(text: str, parsing: Parsing) -> bool:
    if _UNSUITABLE.search(text) or text[0] in string.punctuation or not text[0].isascii():
        return False
    start = text.lower()
    if start.startswith("write a program"):
        return False
    return not (parsing.additional_filtering and start.startswith(_TASKS))


def _one_line(text: str) -> str:
    return _SPACE.sub(" ", text).strip()
