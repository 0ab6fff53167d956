"""Models that come from a hub, over a network that breaks off: a real server on this machine, huggingface_hub's own
client, and the command as a user types it."""

from __future__ import annotations

import dataclasses as dc
import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.constants import DOWNLOAD_CHUNK_SIZE

COMMIT = "0123456789" * 4
NAME = "someone/tiny"
WEIGHTS = "model.safetensors"


@dc.dataclass
class Network:
    """What goes wrong, and what was asked for."""

    folder: Path
    breaks: int = 0  # how many answers with weights still break off in the middle
    gone: bool = False  # after the next break nothing answers any more
    down: bool = False
    ranges: list[str] = dc.field(default_factory=list)  # of requests for the weights; "" is all of them
    asked: list[str] = dc.field(default_factory=list)


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of a hub as a download asks for, over a network with faults."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Not shown."""

    @property
    def network(self) -> Network:
        return self.server.network

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.network.asked.append(self.path)
        if self.network.down:
            self.close_connection = True
        elif "/resolve/" in self.path:
            self.send_file(self.network.folder / self.path.rpartition("/")[2])
        else:
            files = sorted(path for path in self.network.folder.iterdir() if path.is_file())
            facts = [
                {"type": "file", "path": one.name, "size": one.stat().st_size, "oid": etag(one), "rfilename": one.name}
                for one in files
            ]
            tree = "/tree/" in self.path
            self.send(json.dumps(facts if tree else {"id": NAME, "sha": COMMIT, "siblings": facts}).encode())

    def send_file(self, path: Path) -> None:
        body, status, extra = path.read_bytes(), 200, {"ETag": f'"{etag(path)}"', "Accept-Ranges": "bytes"}
        asked = self.headers.get("Range", "")
        if self.command == "GET" and path.name == WEIGHTS:
            self.network.ranges.append(asked)
        if found := re.fullmatch(r"bytes=(\d+)-", asked):
            begin, whole = int(found[1]), len(body)
            body, status = body[begin:], 206
            extra["Content-Range"] = f"bytes {begin}-{whole - 1}/{whole}"
        breaks = self.command == "GET" and path.name == WEIGHTS and self.network.breaks > 0
        self.send(body, status, extra, half=breaks)
        if breaks:
            self.network.breaks -= 1
            self.network.down = self.network.gone

    def send(self, body: bytes, status: int = 200, extra: dict[str, str] | None = None, half: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **(extra or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) // 2] if half else body)
        self.close_connection = half


def etag(path: Path) -> str:
    """The name of a content."""
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose weights are several of the pieces that the client writes at once; what a break cuts off a piece
    is fetched again."""
    from safetensors.torch import load_file, save_file

    from swiftlike.args.model import ModelArgs
    from swiftlike.models.load import locate

    folder = tmp_path_factory.mktemp("published") / "tiny"
    shutil.copytree(locate(ModelArgs(model="tiny-llama")).folder, folder)
    weights = load_file(folder / WEIGHTS) | {"nobody.wants.it": torch.rand(12_000_000)}
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    return folder


@pytest.fixture
def network(published: Path) -> Iterator[Network]:
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.network = Network(published)
    server.network.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.network
    server.shutdown()
    server.server_close()


def whole_pieces(size: int) -> int:
    """What the client has written of so many bytes when the connection breaks."""
    return size // DOWNLOAD_CHUNK_SIZE * DOWNLOAD_CHUNK_SIZE


def run(network: Any, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """One step of training with the model of the hub, in a process of its own: addresses are read at import."""
    env = os.environ | {"HF_ENDPOINT": network.address, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"} | environment
    env |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    argv = [sys.executable, "-m", "swiftlike", "sft", "--model", NAME, "--model_type", "llama", "--dataset", "demo#8"]
    argv += ["--max_steps", "1", "--dataset_test_ratio", "0", "--report_to", "none", "--output_dir", str(home / "out")]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=180, check=False)


def test_a_download_that_breaks_off_goes_on_where_it_was(network: Network, tmp_path: Path) -> None:
    network.breaks = 2
    done = run(network, tmp_path)
    assert done.returncode == 0, done.stderr
    size, kept = (network.folder / WEIGHTS).stat().st_size, [0]
    for _ in range(2):
        kept.append(kept[-1] + whole_pieces((size - kept[-1]) // 2))
    assert network.ranges == ["", f"bytes={kept[1]}-", f"bytes={kept[2]}-"]
    assert 0 < kept[1] < kept[2]
    (fetched,) = tmp_path.glob(f"hub/**/{WEIGHTS}")
    assert fetched.read_bytes() == (network.folder / WEIGHTS).read_bytes()
    network.asked.clear()
    assert run(network, tmp_path, HF_HUB_OFFLINE="1").returncode == 0
    assert not network.asked, "without a network, and what is here is enough"


def test_a_network_that_goes_away_is_said_and_the_next_start_goes_on(network: Network, tmp_path: Path) -> None:
    network.breaks, network.gone = 1, True
    broken = run(network, tmp_path)
    assert broken.returncode == 2, broken.stderr
    assert "Traceback" not in broken.stderr
    assert re.search(rf"cannot fetch '{NAME}'(.|\n)*files that have arrived are kept", broken.stderr)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    offline = run(network, tmp_path, HF_HUB_OFFLINE="1")
    assert offline.returncode == 2, offline.stderr
    assert f"cannot fetch '{NAME}'" in offline.stderr
    network.down = False
    network.asked.clear()
    done = run(network, tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.rpartition("/")[2] for path in network.asked if "/resolve/" in path} == {WEIGHTS}
