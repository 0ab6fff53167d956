"""Pictures: from a path, URL, data URL, base64 text or bytes to RGB, within limits that keep a bad file harmless."""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import http.client
import io
import os
import re
import struct
import time
import urllib.error
import urllib.request
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote_to_bytes, urlsplit

import PIL.Image

from swiftlike.core.cache import cache_folder
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import Image

MAX_PIXELS = 64_000_000  # below PIL's own limit, so that ours speaks first
MAX_SIDE = 30_000
MAX_ASPECT = 200  # Qwen-VL's processors refuse more
MAX_BYTES = 64 << 20
TIMEOUT_S = 20.0
SOURCES = ("file", "url", "inline")
# Formats with a decoder of PIL's own. EPS and the like start other programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "ICO")
_ORIENTATION = 0x0112
_TURNS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
# What PIL's decoders raise on damaged files.
_BROKEN = (OSError, ValueError, SyntaxError, IndexError, KeyError, TypeError, EOFError, struct.error, zlib.error)
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]+={0,2}\s*")
_LONGEST_PATH = 4096
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def open_image(
    image: Image, root: str | Path = "", *, sources: Iterable[str] = SOURCES, max_bytes: int = MAX_BYTES
) -> PIL.Image.Image:
    """The whole picture as RGB: upright, transparency on white, 16-bit and CMYK brought to 8-bit RGB.

    `root` is the folder of relative paths; `sources` says what may be read (a server leaves "file" out). BadRow when
    the picture is missing, broken, or beyond the limits of this module.
    """
    name = describe(image)
    with _opened(image, root, sources, max_bytes) as picture:
        _refuse_size(picture.size, name)
        try:
            turn = _TURNS.get(_orientation(picture))
            picture.load()
            return _rgb(picture if turn is None else picture.transpose(turn))
        except _BROKEN as error:
            raise BadRow("image is broken", f"{name}: {error}") from error


def image_size(
    image: Image, root: str | Path = "", *, sources: Iterable[str] = SOURCES, max_bytes: int = MAX_BYTES
) -> tuple[int, int]:
    """(width, height) of the upright picture, from its header only. BadRow as for `open_image`."""
    with _opened(image, root, sources, max_bytes) as picture:
        _refuse_size(picture.size, describe(image))
        width, height = picture.size
        return (height, width) if _orientation(picture) in _SIDEWAYS else (width, height)


def _orientation(picture: PIL.Image.Image) -> int:
    """How the camera was held, from the header. PIL would decode a whole PNG to look for a mark behind its pixels."""
    if picture.format == "PNG" and not {"exif", "Raw profile type exif"} & picture.info.keys():
        return 1
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except _BROKEN:
        return 1  # damaged camera data does not make the picture unusable


def describe(image: Image) -> str:
    """A short name of a picture for messages."""
    source = image.source
    if isinstance(source, bytes):
        return f"{len(source)} bytes"
    return source if len(source) <= 120 else f"{source[:40]}... ({len(source)} characters)"


def is_on_the_web(source: str) -> bool:
    """Whether a picture is named by a URL that is fetched."""
    return source[:8].lower().startswith(("http://", "https://"))


def is_file(image: Image) -> bool:
    """Whether a picture is named by a path of this machine."""
    return isinstance(image.source, str) and _kind(image.source) == "file"


def located(image: Image, roots: Iterable[Path]) -> Image:
    """The picture with its relative path joined to the first root that has it (to the first root when none has)."""
    if not is_file(image):
        return image
    path = _path_of(str(image.source))
    if path.is_absolute():
        return Image(str(path))
    tried = [root / path for root in roots]
    return Image(str(next((one for one in tried if _exists(one)), tried[0] if tried else path)))


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for any file
        return False


def _path_of(source: str) -> Path:
    path = Path(_plain(source))
    try:
        return path.expanduser()
    except RuntimeError:  # the home of a user who does not exist
        return path


def _kind(source: str) -> str:
    if source.startswith("data:"):
        return "inline"
    scheme = _SCHEME.match(source)
    if scheme and scheme[0].lower() != "file://":
        return "url"
    return "inline" if _inline_bytes(source) is not None else "file"


def _plain(source: str) -> str:
    if not source.lower().startswith("file://"):
        return source
    try:
        return urlsplit(source).path
    except ValueError as error:
        raise BadRow("image is missing", f"{source!a}: {error}") from None


def _inline_bytes(source: str) -> bytes | None:
    """The bytes of base64 text, None for a path. Told apart by what the first bytes decode to: `/9j/` begins both."""
    if not _BASE64.fullmatch(source[:_LONGEST_PATH]):
        return None
    head = re.sub(r"\s", "", source[:64]).translate(str.maketrans("-_", "+/"))
    try:
        start = base64.b64decode(head[: len(head) // 4 * 4])
    except binascii.Error:
        return None
    signatures = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
    if len(source) < 32 or not start.startswith(signatures):
        return None
    return start


def _decoded(source: str, name: str) -> bytes:
    if source.startswith("data:"):
        head, mark, body = source.partition(",")
        if not mark:
            raise BadRow("image is broken", f"{name}: a data URL without a comma")
        if not head.endswith(";base64"):
            return unquote_to_bytes(body)
        source = body
    text = re.sub(r"\s", "", source).translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRow("image is broken", f"{name}: {error}") from error


@contextmanager
def _opened(image: Image, root: str | Path, sources: Iterable[str], max_bytes: int) -> Iterator[PIL.Image.Image]:
    name = describe(image)
    with _file(image, root, sources, max_bytes) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)  # our own limit is lower
        try:
            picture = PIL.Image.open(file, formats=_formats())
        except PIL.UnidentifiedImageError as error:
            raise BadRow("image is unreadable", f"{name}: no known picture format") from error
        except PIL.Image.DecompressionBombError as error:
            raise BadRow("image is too large", f"{name}: {error}") from error
        except _BROKEN as error:
            raise BadRow("image is broken", f"{name}: {error}") from error
        with picture:
            yield picture


@functools.cache
def _formats() -> tuple[str, ...]:
    PIL.Image.init()
    return tuple(name for name in _FORMATS if name in PIL.Image.OPEN)  # AVIF is missing from some builds


def _file(image: Image, root: str | Path, sources: Iterable[str], max_bytes: int) -> IO[bytes]:
    source, name = image.source, describe(image)
    kind = "inline" if isinstance(source, bytes) else _kind(source)
    if kind not in sources:
        raise BadRow("image source is not allowed", f"{name} is of kind {kind}; allowed are {', '.join(sources)}")
    if kind == "file":
        return _path(Path(root, _path_of(str(source))), name, max_bytes)
    if kind == "url":
        data = _download(str(source), name, max_bytes)
    else:
        data = source if isinstance(source, bytes) else _decoded(source, name)
    _refuse_bytes(len(data), max_bytes, name)
    return io.BytesIO(data)


def _path(path: Path, name: str, max_bytes: int) -> IO[bytes]:
    try:
        if not path.is_file():
            raise BadRow("image is missing", str(path))
        _refuse_bytes(path.stat().st_size, max_bytes, name)
        return path.open("rb")
    except (OSError, ValueError) as error:
        if isinstance(error, BadRow):
            raise
        raise BadRow("image is unreadable", f"{name}: {getattr(error, 'strerror', None) or error}") from error


def _refuse_bytes(size: int, max_bytes: int, name: str) -> None:
    if size == 0:
        raise BadRow("image is empty", f"{name} has no bytes")
    if size > max_bytes:
        raise BadRow("image file is too large", f"{name}: {size / 2**20:.1f} MB; at most {max_bytes / 2**20:.1f}")


def _refuse_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if min(size) < 1 or max(size) / max(min(size), 1) > MAX_ASPECT:
        raise BadRow("image is too narrow", f"{name}: {width} x {height}; sides may differ {MAX_ASPECT} times")
    if width * height > MAX_PIXELS or max(size) > MAX_SIDE:
        raise BadRow("image is too large", f"{name}: {width} x {height} pixels")


class _WebOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Refuse to be led away from the web (urllib would follow to ftp)."""
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise urllib.error.HTTPError(newurl, code, "redirect leads away from the web", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(url: str, name: str, max_bytes: int) -> bytes:
    if not is_on_the_web(url):
        raise BadRow("image URL is of an unknown kind", f"{name}: only http and https are read")
    kept = cache_folder("pictures") / hashlib.sha256(url.encode()).hexdigest()
    if kept.is_file():
        return kept.read_bytes()
    request = urllib.request.Request(url, headers={"User-Agent": "swiftlike"})
    try:
        with urllib.request.build_opener(_WebOnly).open(request, timeout=TIMEOUT_S) as answer:
            data = _received(answer, max_bytes)
        if len(data) <= max_bytes:  # fetched once, not at every use; complete under its name or not there
            draft = kept.with_name(f".{kept.name}.{os.getpid()}")
            draft.write_bytes(data)
            draft.replace(kept)
        return data
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise BadRow("image cannot be downloaded", f"{name}: {getattr(error, 'reason', None) or error}") from error


def _received(answer: IO[bytes], max_bytes: int) -> bytes:
    """At most one byte more than allowed. TimeoutError for a server that sends on for ever, a little at a time."""
    data, end = bytearray(), time.monotonic() + TIMEOUT_S * 3
    while len(data) <= max_bytes and (piece := answer.read1(min(1 << 16, max_bytes + 1 - len(data)))):  # type: ignore[attr-defined]
        data += piece
        if time.monotonic() > end:
            raise TimeoutError(f"it takes more than {TIMEOUT_S * 3:.0f} s")
    return bytes(data)


def _rgb(picture: PIL.Image.Image) -> PIL.Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _eight_bit(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = PIL.Image.new("RGBA", picture.size, "white")
        return PIL.Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def _eight_bit(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Grey of 16 or 32 bits, or floats, scaled to 8 bits; plain conversion would clip nearly all of it to white."""
    import numpy as np

    values = np.asarray(picture, dtype=np.float32)
    top = float(values.max(initial=0.0))
    full = 1.0 if picture.mode == "F" and top <= 1 else 255.0 if top <= 255 and picture.mode != "I;16" else 65535.0
    full = max(full, top)
    return PIL.Image.fromarray((values.clip(0) * (255.0 / full) + 0.5).astype(np.uint8))
