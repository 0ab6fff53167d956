"""1,000 requests that are broken, too large or meant to harm, beside good ones that must be answered all the while."""

from __future__ import annotations

import random
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.hostile_cases import COUNT, GONE, HEADS, SECRET, cases, chat, open_folder, patience, request, send

from .servers import Deployed, deployed


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that nobody may read, beside the folder that is open."""
    return open_folder(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, secret: Path) -> Iterator[Deployed]:
    words = ["--model_type", "tiny-qwen2_5-vl", "--served_model_name", "eyes", "--max_body", 1, "--verbose", "false"]
    with deployed(tmp_path_factory.mktemp("hostile"), *words, "--allowed_local_media_path", secret / "open") as found:
        yield found


@pytest.fixture(scope="module")
def trap() -> Iterator[tuple[str, list[bytes]]]:
    """A server on this machine that no picture may be fetched from, and what reached it."""
    reached: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            while True:
                try:
                    one, _ = listening.accept()
                except OSError:
                    return
                with one:
                    reached.append(one.recv(4096))

        threading.Thread(target=accept, daemon=True).start()
        yield f"{listening.getsockname()[1]}", reached
        listening.shutdown(socket.SHUT_RDWR)


def test_a_large_head_is_refused_however_it_arrives(server: Deployed) -> None:
    assert send(server.url, request(chat(), head=HEADS[0]), False, 60)[0] in (400, GONE)


def test_a_thousand_hostile_requests(server: Deployed, secret: Path, trap: tuple[str, list[bytes]]) -> None:
    port, reached = trap
    kinds = cases(secret, port)
    names = [name for _, name in zip(range(COUNT), list(kinds) * COUNT, strict=False)]
    client, done, good = server.client(), threading.Event(), []

    def answer() -> str:
        asked = [{"role": "user", "content": "Name a fruit."}]
        found = client.chat.completions.create(model="eyes", messages=asked, max_tokens=8, temperature=0)
        return found.choices[0].message.content or ""

    def hostile(number: int) -> tuple[str, int, bytes]:
        draw = random.Random(number)
        data = kinds[names[number]](draw)
        return names[number], *send(server.url, data, draw.random() < 0.15, patience(names[number]))

    expected = answer()

    def beside() -> None:
        while not done.is_set():
            good.append(answer())

    with ThreadPoolExecutor(9) as pool:
        other = pool.submit(beside)
        try:
            answers = list(pool.map(hostile, range(COUNT)))
        finally:
            done.set()
        other.result()  # no good request was refused
    statuses: dict[str, Counter[int]] = {name: Counter() for name in kinds}
    for name, status, said in answers:
        statuses[name][status] += 1
        assert status < 500, (name, said)
        assert SECRET.encode() not in said
        assert b"root:" not in said
        assert b"Traceback" not in said
    assert {name for name, found in statuses.items() if not found.keys() - {GONE, 200}} == set(), statuses
    for name in ("broken", "files", "addresses", "bombs", "models", "huge", "torn"):
        assert 200 not in statuses[name], statuses
    assert reached == []
    assert good
    assert set(good) == {expected}
    assert server.process.poll() is None
    server.wait_for("swiftlike_answers_running", 0)
    assert "Traceback" not in server.log.read_text()
