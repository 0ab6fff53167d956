"""The installed command, with a cache that lasts for the session and no way to the network."""

from __future__ import annotations

import dataclasses as dc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from swiftlike.models.tiny import build

# Python imports a module of this name at start-up: every attempt to reach another machine fails and leaves a note.
BLOCK = """
import os, socket, traceback

def refuse(*args, **keywords):
    with open(os.environ["NETWORK_NOTE"], "a") as file:
        file.write("".join(traceback.format_stack()))
    raise OSError("a test reached for the network")

connect = socket.socket.connect
socket.socket.connect = lambda self, address: connect(self, address) if self.family == socket.AF_UNIX else refuse()
socket.socket.connect_ex = refuse
socket.getaddrinfo = refuse
socket.gethostbyname = refuse
"""
LEFT_OUT = ("SWIFTLIKE_", "HF_", "TRANSFORMERS_", "NPROC_", "RANK", "WORLD_SIZE", "LOCAL_RANK")


@dc.dataclass(frozen=True)
class Result:
    """What a command left: exit code and texts."""

    code: int
    out: str
    err: str


@dc.dataclass(frozen=True)
class Installed:
    """`swiftlike` as pip installed it, beside this Python."""

    env: dict[str, str]
    folder: Path

    @property
    def path(self) -> Path:
        """The console script."""
        return Path(sys.executable).parent / "swiftlike"

    def __call__(self, *words: object, **env: str) -> Result:
        """Run it to its end."""
        argv = [str(self.path), *map(str, words)]
        done = subprocess.run(
            argv, env=self.env | env, cwd=self.folder, capture_output=True, text=True, timeout=280, check=False
        )
        return Result(done.returncode, done.stdout, done.stderr)

    @property
    def reached(self) -> str:
        """Where the code stood when something reached for the network."""
        note = Path(self.env["NETWORK_NOTE"])
        return note.read_text() if note.exists() else ""


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built-in models, data and reference numbers of this test process."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def swiftlike(cache: Path, tmp_path: Path) -> Installed:
    """The command, run in an empty folder."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BLOCK)
    (tmp_path / "work").mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith(LEFT_OUT)}
    env |= {"SWIFTLIKE_CACHE": str(cache), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path / "site")}
    return Installed(env | {"NETWORK_NOTE": str(tmp_path / "note")}, tmp_path / "work")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a built-in model, as one downloads it: an ordinary local checkpoint."""

    def folder(name: str) -> Path:
        return build(name, tmp_path_factory.getbasetemp() / "tiny" / name)

    return folder
