from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from swiftlike.data import media
from swiftlike.data.media import image_size, is_file, located, open_image
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import Image

from .conftest import picture


def encoded(image: PIL.Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


RED = PIL.Image.new("RGB", (40, 30), (200, 10, 10))
DATA = encoded(RED)


@pytest.mark.parametrize(
    "source",
    [
        DATA,
        base64.b64encode(DATA).decode(),
        base64.urlsafe_b64encode(DATA).decode().rstrip("="),
        "\n".join(base64.encodebytes(DATA).decode().split()),
        "data:image/png;base64," + base64.b64encode(DATA).decode(),
        base64.b64encode(encoded(RED, "JPEG", quality=100)).decode(),  # begins with /9j/, as a path would
    ],
)
def test_pictures_inside_the_row(source: str | bytes) -> None:
    assert not is_file(Image(source))
    found = open_image(Image(source))
    assert (found.mode, found.size, image_size(Image(source))) == ("RGB", (40, 30), (40, 30))
    assert max(abs(a - b) for a, b in zip(found.getpixel((5, 5)), (200, 10, 10), strict=True)) <= 3


def test_pictures_by_path(tmp_path: Path) -> None:
    path = picture(tmp_path / "a b.png")
    for image, root in ((Image("a b.png"), tmp_path), (Image(str(path)), ""), (Image(f"file://{path}"), "")):
        assert image_size(image, root) == (32, 24)
    assert located(Image("a b.png"), [Path("/nowhere"), tmp_path]) == Image(str(path))
    assert located(Image("none.png"), [tmp_path, Path()]) == Image(str(tmp_path / "none.png"))
    assert located(Image("https://x/y.png"), [tmp_path]) == Image("https://x/y.png")


def test_orientation_is_applied_by_both(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    path = picture(tmp_path / "turned.jpg", (32, 24), exif=exif)
    assert image_size(Image(str(path))) == open_image(Image(str(path))).size == (24, 32)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (PIL.Image.new("RGBA", (4, 4), (255, 0, 0, 0)), (255, 255, 255)),
        (PIL.Image.new("RGBA", (4, 4), (255, 0, 0, 128)), (255, 127, 127)),
        (PIL.Image.new("LA", (4, 4), (0, 255)), (0, 0, 0)),
        (PIL.Image.new("L", (4, 4), 77), (77, 77, 77)),
        (PIL.Image.new("1", (4, 4), 1), (255, 255, 255)),
        (PIL.Image.fromarray(np.full((4, 4), 0x8000, np.uint16)), (128, 128, 128)),
        (PIL.Image.new("RGB", (4, 4), (1, 2, 3)).convert("P", palette=PIL.Image.Palette.ADAPTIVE), (1, 2, 3)),
    ],
)
def test_every_mode_becomes_rgb(image: PIL.Image.Image, expected: tuple[int, int, int]) -> None:
    assert open_image(Image(encoded(image))).getpixel((1, 1)) == expected


def test_transparent_palette_cmyk_and_float() -> None:
    palette = PIL.Image.new("P", (4, 4), 0)
    palette.putpalette([9, 9, 9])
    assert open_image(Image(encoded(palette, transparency=0))).getpixel((1, 1)) == (255, 255, 255)
    assert open_image(Image(encoded(PIL.Image.new("CMYK", (4, 4)), "JPEG"))).getpixel((1, 1)) == (255, 255, 255)
    floats = PIL.Image.fromarray(np.full((4, 4), 0.5, np.float32))
    assert open_image(Image(encoded(floats, "TIFF"))).getpixel((1, 1)) == (128, 128, 128)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("nowhere/at/all.png", "image is missing"),
        (b"", "image is empty"),
        (b"not a picture", "image is unreadable"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "image is unreadable"),
        (DATA[: len(DATA) // 2], "image is broken"),
        (png_header(100_000, 100_000), "image is too large"),
        (png_header(9_000, 8_000), "image is too large"),
        (png_header(31_000, 1_000), "image is too large"),
        (png_header(4_000, 3), "image is too narrow"),
        ("data:image/png;base64", "image is broken"),
        ("data:image/png;base64,!!!", "image is broken"),
        ("ftp://example.invalid/a.png", "image URL is of an unknown kind"),
        ("x" * 10_000, "image is unreadable"),
        ("nul\0.png", "image is missing"),
        ("/", "image is missing"),
    ],
)
def test_bad_pictures_say_what_they_are(source: str | bytes, kind: str) -> None:
    with pytest.raises(BadRow) as caught:
        open_image(Image(source))
    assert caught.value.kind == kind


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "big.png"
    with path.open("wb") as file:
        file.truncate(3 << 20)  # a sparse file
    with pytest.raises(BadRow, match="image file is too large"):
        image_size(Image(str(path)), max_bytes=1 << 20)


def test_a_server_can_refuse_files(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    with pytest.raises(BadRow, match="not allowed"):
        open_image(Image(str(path)), sources=("url", "inline"))
    assert open_image(Image(DATA), sources=("inline",)).size == (40, 30)


def test_downloads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Opener:
        def open(self, request: Any, timeout: float) -> io.BytesIO:
            assert timeout > 0
            return io.BytesIO(DATA if request.full_url.endswith("ok.png") else b"\0" * (2 << 20))

    monkeypatch.setattr(media.urllib.request, "build_opener", lambda *_: Opener())
    assert image_size(Image("https://example.invalid/ok.png")) == (40, 30)
    with pytest.raises(BadRow, match="image file is too large"):
        image_size(Image("https://example.invalid/endless.png"), max_bytes=1 << 20)


def test_a_redirect_away_from_the_web_is_refused() -> None:
    request = media.urllib.request.Request("https://example.invalid/")
    with pytest.raises(media.urllib.error.HTTPError, match="away from the web"):
        media._WebOnly().redirect_request(request, None, 302, "", {}, "ftp://example.invalid/a")
