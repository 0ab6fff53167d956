"""What can be wrong with a row, looked for before anything is trained on it.

Every picture's header is read once, and a local file whose end looks cut off is decoded to be sure. Decoding every
picture costs milliseconds each, so only `swiftlike check` does that, for the first `decode` different pictures.
"""

from __future__ import annotations

import dataclasses as dc
import hashlib
from collections.abc import Iterator
from pathlib import Path

from swiftlike.data.media import MAX_BYTES, image_size, is_file, is_on_the_web, open_image
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import Image, Row, Turns

MAX_TEXT = 10_000_000  # characters of one row
_TAIL = 2048


@dc.dataclass(frozen=True, slots=True)
class Problem:
    """Why a row cannot be used. `kind` is what is counted, `detail` what is special about this row."""

    origin: str
    kind: str
    detail: str = ""

    def as_text(self) -> str:
        """`pairs.jsonl:37: image is missing: images/a.png`."""
        return ": ".join(part for part in (self.origin, self.kind, self.detail) if part)


class Pictures:
    """Looks at each different picture once. URLs are not fetched: their errors come when they are opened."""

    def __init__(self, decode: int = 0, max_bytes: int = MAX_BYTES) -> None:
        self.decode, self.max_bytes = decode, max_bytes
        self.sizes: dict[bytes | str, tuple[int, int]] = {}
        self.not_looked_at = 0
        self._bad: dict[bytes | str, BadRow] = {}

    def look(self, image: Image) -> None:
        """BadRow when the picture is missing, broken, empty or beyond the limits."""
        key = image.source if len(image.source) < _TAIL else hashlib.blake2b(_bytes(image.source)).digest()
        if key in self._bad:
            raise self._bad[key]
        if key in self.sizes:
            return
        if isinstance(image.source, str) and is_on_the_web(image.source):
            self.not_looked_at += 1
            return
        try:
            size = image_size(image, max_bytes=self.max_bytes)
            if len(self.sizes) < self.decode or _looks_cut(image):
                open_image(image, max_bytes=self.max_bytes)
        except BadRow as error:
            self._bad[key] = error
            raise
        self.sizes[key] = size

    def absorb(self, later: Pictures) -> None:
        """Add what was seen elsewhere, behind these."""
        self.sizes |= {key: size for key, size in later.sizes.items() if key not in self.sizes}
        self._bad |= later._bad
        self.not_looked_at += later.not_looked_at

    @property
    def files(self) -> list[str]:
        """Names that were looked at as files, those that are not there included."""
        return [key for key in (*self.sizes, *self._bad) if isinstance(key, str)]


def _bytes(source: str | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.encode("utf-8", "surrogatepass")


def _looks_cut(image: Image) -> bool:
    """Whether a local file lacks the end mark of its format. A hint only: good files with odd tails exist."""
    if not is_file(image):
        return False
    path = Path(str(image.source))
    with path.open("rb") as file:
        start = file.read(12)
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL))
        tail = file.read()
    if start.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in tail
    if start.startswith(b"\x89PNG"):
        return b"IEND" not in tail
    if start.startswith(b"RIFF"):
        return size < int.from_bytes(start[4:8], "little") + 8
    return True  # formats without an end mark are rare: decode


def problems(row: Row, pictures: Pictures) -> list[Problem]:
    """Everything that is wrong with a row; an empty list for a good one."""
    return [Problem(row.origin, kind, detail) for kind, detail in _problems(row, pictures)]


def _problems(row: Row, pictures: Pictures) -> Iterator[tuple[str, str]]:
    conversations = [row.prompt_of(k) for k in range(row.size)] or [row.prompt]
    yield from _texts(row, conversations)
    for k, turns in enumerate(row.completions):
        if not (turns.messages and turns.messages[-1].role == "assistant"):
            yield "no answer", f"{_which(row, k)} does not end with an assistant turn"
        elif not turns.messages[-1].content.strip():
            yield "empty answer", _which(row, k)
    same = _same(row)
    if same:
        yield "chosen equals rejected" if row.size == 2 else "two answers are equal", same
    for turns in {*conversations, *row.completions}:
        if turns.tags != len(turns.images):
            yield "image tags do not match images", f"{turns.tags} tags, {len(turns.images)} images"
        yield from _pictures(turns, pictures)


def _texts(row: Row, conversations: list[Turns]) -> Iterator[tuple[str, str]]:
    if not all(any(message.role == "user" for message in turns.messages) for turns in conversations):
        yield "no user turn", ""
    elif not all(any(m.role == "user" and m.content.strip() for m in turns.messages) for turns in conversations):
        yield "empty prompt", "every user turn is empty"
    messages = [message for turns in (*conversations, *row.completions) for message in turns.messages]
    length = sum(len(message.content) for message in messages)
    if length > MAX_TEXT:
        yield "text is too long", f"{length} characters; at most {MAX_TEXT}"
    for message in messages:
        if not message.content.isascii():
            try:
                message.content.encode("utf-8")
            except UnicodeEncodeError as error:
                yield "broken unicode", f"a lone surrogate {message.content[error.start]!a} in a {message.role} turn"
                return


def _pictures(turns: Turns, pictures: Pictures) -> Iterator[tuple[str, str]]:
    for image in turns.images:
        try:
            pictures.look(image)
        except BadRow as error:
            yield error.kind, error.detail


def _which(row: Row, k: int) -> str:
    if row.size == 1:
        return "the answer"
    return ("chosen", "rejected")[k] if row.size == 2 else f"answer {k + 1} of {row.size}"


def _same(row: Row) -> str:
    """Which two answers are alike, prompts and pictures included. Ranked lists of more than two may repeat."""
    if row.size != 2 or row.prompt_of(0) != row.prompt_of(1):
        return ""
    chosen, rejected = row.completions
    if chosen.images != rejected.images:
        return ""
    said = [[(m.role, m.content.strip()) for m in turns.messages] for turns in (chosen, rejected)]
    return f"{_start(chosen)!r}" if said[0] == said[1] else ""


def _start(turns: Turns, length: int = 60) -> str:
    text = turns.messages[-1].content.strip() if turns.messages else ""
    return text if len(text) <= length else text[:length] + "..."


def fingerprint(row: Row) -> bytes:
    """16 bytes that two rows share when prompt, answers, pictures and verdict are the same."""
    digest = hashlib.blake2b(digest_size=16)
    for turns in (row.prompt, *row.prompts, *row.completions):
        for message in turns.messages:
            digest.update(f"{message.role}\0{message.content}\0".encode("utf-8", "surrogatepass"))
        for image in turns.images:
            digest.update(b"\1" + _bytes(image.source))
        digest.update(b"\2")
    digest.update(f"{row.label}{row.scores}".encode())
    return digest.digest()
