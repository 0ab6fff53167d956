"""What a person types: words that steer, and text with pictures in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from swiftlike.data.check import Pictures
from swiftlike.data.media import MAX_BYTES, located
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import IMAGE_TAG, Image

Ask = Callable[[str], str]  # a prompt on the terminal, what was typed

_SUFFIXES = "png|jpe?g|webp|gif|bmp|tiff?|avif|ppm|ico"
# A terminal writes a file that is dragged into it as a path of its own: quoted, or with blanks escaped.
_DRAGGED = (
    rf"(?<!\S)(?:'(?P<single>(?:file://)?~?/[^'\n]+\.(?:{_SUFFIXES}))'"
    rf'|"(?P<double>(?:file://)?~?/[^"\n]+\.(?:{_SUFFIXES}))"'
    rf"|(?P<bare>(?:file://)?~?/(?:\\.|[^\s\\'\"])+\.(?:{_SUFFIXES})))(?!\S)"
)
_TAGGED = r"<image>(?P<image>[^<\n]+)</image>|<img>(?P<img>[^<\n]+)</img>|(?P<open><image>)"
_WRITTEN = re.compile(_TAGGED, re.IGNORECASE)
_ANY = re.compile(f"{_TAGGED}|{_DRAGGED}", re.IGNORECASE)
_PICTURE = "image path or URL <<< "


def with_pictures(text: str, sees: bool, ask: Ask, max_bytes: int = MAX_BYTES) -> tuple[str, tuple[Image, ...]]:
    """The text with an `<image>` tag for each picture, and the pictures, each looked at.

    A picture is written `<image>path or URL</image>`, or is a file dragged into the terminal; a bare `<image>` is asked
    for. A path of no file stays text. `sees`: whether the model takes pictures; for one that does not, a written
    picture is an error and a path stays text. BadRow says what is wrong with a picture.
    """
    images: list[Image] = []
    pictures = Pictures(decode=1 << 30, max_bytes=max_bytes)

    def tag(match: re.Match[str]) -> str:
        source = _source(match, ask)
        if source is None:
            return match[0]
        if not sees:
            raise BadRow("images for a text model")
        image = located(Image(source), [Path()])
        pictures.look(image)
        images.append(image)
        return IMAGE_TAG

    return (_ANY if sees else _WRITTEN).sub(tag, text), tuple(images)


def _source(match: re.Match[str], ask: Ask) -> str | None:
    """Where the picture comes from; None for a path that leads to no file."""
    found = match.groupdict()
    if found["open"]:
        return dropped(ask(_PICTURE))
    written = found["image"] or found["img"]
    if written:
        return dropped(written)
    path = dropped(match[0])
    return path if Path(path).expanduser().is_file() else None


def dropped(text: str) -> str:
    """A path as a terminal writes it, without quotes, escapes and `file://`."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    elif not re.match(r"\w+://|data:", text):
        text = re.sub(r"\\(.)", r"\1", text)
    return unquote(text.removeprefix("file://")) if text.startswith("file://") else text
