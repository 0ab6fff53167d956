"""Packed files, unpacked within a bound: a few kilobytes can hold a terabyte of nothing."""

from __future__ import annotations

import gzip
import io
import os
from pathlib import Path
from typing import Any

from swiftlike.core.errors import UserError

FREE = 32 << 20  # bytes that any packed file may hold
MOST_TIMES = 200  # its own size that a larger one may hold; text packs 3 to 20 times


def most_unpacked(packed: int) -> int:
    """Bytes that a file of so many packed bytes may hold."""
    return max(FREE, packed * MOST_TIMES)


def refuse_bomb(unpacked: int, packed: int, name: str) -> None:
    """UserError when more comes out of a file than honest data would."""
    if unpacked > most_unpacked(packed):
        raise UserError(
            f"{name} unpacks to more than {most_unpacked(packed) >> 20} MB, {MOST_TIMES} times its size or more: "
            "it is not read to its end",
            hint="if the data is meant to be so, unpack it and give the file itself",
        )


class Unpacked(io.RawIOBase):
    """What a gzip file holds. UserError once it is more than honest data would be."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = gzip.GzipFile(path)
        self._packed, self._name = path.stat().st_size, str(path)

    def readinto(self, buffer: Any) -> int:
        """The next bytes."""
        data = self._file.read1(len(buffer))  # what is there before a break comes first, the error at the next call
        buffer[: len(data)] = data
        refuse_bomb(self._file.tell(), self._packed, self._name)
        return len(data)

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, from the start again when it is before this one."""
        return self._file.seek(place, whence)

    def tell(self) -> int:
        """The place in what is unpacked."""
        return self._file.tell()

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is, from the start at worst."""
        return True

    def close(self) -> None:
        """Close the file too."""
        self._file.close()
        super().close()
