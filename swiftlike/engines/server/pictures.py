"""Pictures that requests name: from the web, inside the request, or from the one folder that is open to them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import dataclasses as dc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

from swiftlike.data.media import MAX_BYTES, MAX_PIXELS, image_size
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import Image
from swiftlike.engines.server.errors import ApiError
from swiftlike.engines.server.remote import PictureError, fetch

MAX_PICTURES = 64
_NO_FILE = "is not a picture file below --allowed_local_media_path"


@dc.dataclass(kw_only=True)
class Pictures:
    """Reads what `image_url` may say. `folder` is the only place for file:// URLs, `hosts` as in remote.fetch.

    A picture's bytes are read here and its header looked at; the engine never gets a path or a URL.
    """

    folder: Path | None = None
    hosts: Sequence[str] = ()
    max_bytes: int = MAX_BYTES
    most: int = MAX_PICTURES
    downloads: ThreadPoolExecutor = dc.field(default_factory=lambda: ThreadPoolExecutor(16, "download"))
    readers: ThreadPoolExecutor = dc.field(default_factory=lambda: ThreadPoolExecutor(2, "picture"))

    async def read(self, urls: Sequence[tuple[str, str]]) -> tuple[Image, ...]:
        """Pictures of (url, name of the field it came from). ApiError 400 for one that cannot be used."""
        if len(urls) > self.most:
            raise ApiError(400, f"{len(urls)} pictures; a request may have {self.most}", param=urls[self.most][1])
        loop, pixels, found = asyncio.get_running_loop(), 0, []
        for url, field in urls:
            pool = self.downloads if _scheme(url) in ("http", "https") else self.readers
            try:
                image = await loop.run_in_executor(pool, self._bytes, url)
                width, height = await loop.run_in_executor(self.readers, self._size, image)
            except (BadRow, PictureError) as error:
                reason = f"{error.kind}: {error.detail}" if isinstance(error, BadRow) else f"picture: {error}"
                raise ApiError(400, reason, param=field, code="invalid_image") from error
            pixels += width * height
            if pixels > MAX_PIXELS:
                raise ApiError(400, f"more than {MAX_PIXELS} pixels in one request", param=field, code="invalid_image")
            found.append(image)
        return tuple(found)

    def _bytes(self, url: str) -> Image:
        scheme = _scheme(url)
        if scheme == "data":
            return _inline("data:" + url[5:])
        if scheme in ("http", "https"):
            return Image(fetch(url, max_bytes=self.max_bytes, hosts=self.hosts))
        if scheme == "file":
            return Image(self._file(url))
        raise PictureError("a picture is an http(s), data: or file: URL")

    def _file(self, url: str) -> bytes:
        """Bytes of a file below the folder. What is not there and what is not allowed are told apart by nobody."""
        if self.folder is None:
            raise PictureError("files of the server are not read; it was started without --allowed_local_media_path")
        try:
            place = urlsplit(url)
            if place.netloc not in ("", "localhost"):
                raise PictureError(_NO_FILE)
            path = Path(unquote(place.path)).resolve(strict=True)
            if not path.is_relative_to(self.folder.resolve()) or not path.is_file():
                raise PictureError(_NO_FILE)
            if path.stat().st_size > self.max_bytes:
                raise PictureError(f"it has more than {self.max_bytes / 2**20:g} MB")
            return path.read_bytes()
        except (OSError, RuntimeError, ValueError) as error:
            raise error if isinstance(error, PictureError) else PictureError(_NO_FILE) from error

    def _size(self, image: Image) -> tuple[int, int]:
        return image_size(image, sources=("inline",), max_bytes=self.max_bytes)

    def close(self) -> None:
        """Give the threads back; a download that hangs is not waited for."""
        self.downloads.shutdown(wait=False, cancel_futures=True)
        self.readers.shutdown(wait=False, cancel_futures=True)


def _inline(url: str) -> Image:
    """The bytes of a data URL, so that they are decoded once; what is not plain base64 is left to data.media."""
    head, _, body = url.partition(",")
    if not head.endswith(";base64"):
        return Image(url)
    try:
        return Image(base64.b64decode(body, validate=True))
    except (binascii.Error, ValueError):
        return Image(url)


def _scheme(url: str) -> str:
    return url[:16].partition(":")[0].lower()
