"""Small files, arguments, and the promise that local data never touches the network."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from swiftlike.args.data import DataArgs


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a test of local data opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def args() -> Callable[..., DataArgs]:
    """DataArgs of some data sets, with nothing held out."""

    def make(*items: Any, **values: Any) -> DataArgs:
        return DataArgs(dataset=[str(item) for item in items], **{"dataset_test_ratio": 0.0, **values})

    return make


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Write records (or raw lines) to a file of tmp_path."""

    def write(rows: Iterable[Any], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return path

    return write


def pair(number: int, **more: Any) -> dict[str, Any]:
    """A small preference pair."""
    return {"query": f"question {number}", "response": f"good {number}", "rejected_response": f"bad {number}", **more}


def picture(path: Path, size: tuple[int, int] = (32, 24), **options: Any) -> Path:
    """A noisy picture file, so that cutting it off loses something."""
    PIL.Image.frombytes("RGB", size, os.urandom(size[0] * size[1] * 3)).save(path, **options)
    return path


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data that is not part of the repository."""
    folder = Path(os.environ.get("SWIFTLIKE_SHARED", "../shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set SWIFTLIKE_SHARED")
    return folder.resolve()
