"""What a hostile client may send: 1,000 requests that are broken, too large, or meant to harm, as bytes by kind.

The integration test looks at the answers, hostile.py at what good requests notice of them.
"""

from __future__ import annotations

import base64
import io
import json
import random
import socket
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import PIL.Image

COUNT = 1000
SECRET = "the-secret-of-this-machine"
GONE = 0  # what a request that the client itself gave up counts as
Case = Callable[[random.Random], bytes]


def open_folder(folder: Path) -> Path:
    """A file that nobody may read, beside the folder that is open. Gives `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / "secret.txt").write_text(SECRET)
    (folder / "open").mkdir()
    (folder / "open" / "text.png").write_text(SECRET)
    (folder / "open" / "link.png").symlink_to(folder / "secret.txt")
    return folder


def request(body: bytes, path: str = "/v1/chat/completions", head: str = "", method: str = "POST") -> bytes:
    lines = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n{head}"
    length = "" if "Content-Length" in head or "Transfer-Encoding" in head else f"Content-Length: {len(body)}\r\n"
    return f"{lines}{length}\r\n".encode() + body


def chat(**fields: Any) -> bytes:
    return json.dumps(
        {"model": "eyes", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2} | fields
    ).encode()


def picture(url: str) -> bytes:
    part = {"type": "image_url", "image_url": {"url": url}}
    return request(chat(messages=[{"role": "user", "content": [part]}]))


def inline(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def bomb(width: int, height: int) -> bytes:
    """A small PNG that would fill gigabytes."""
    out = io.BytesIO()
    PIL.Image.new("1", (64, 64)).save(out, "PNG")
    head = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    data = out.getvalue()
    return data[:12] + head + zlib.crc32(head).to_bytes(4, "big") + data[33:]


def damaged(draw: random.Random, kind: str) -> bytes:
    out = io.BytesIO()
    PIL.Image.new("RGB", (80, 60), (draw.randrange(256), 90, 9)).save(out, kind)
    data = bytearray(out.getvalue())
    for _ in range(draw.randrange(1, 12)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(data[: draw.randrange(1, len(data) + 1)])


WRONG: list[Any] = [None, True, -1, 0, 1e308, "x", "", [], {}, [[]], [None], {"a": 1}, 2**70, "\udc80", "nan"]
FIELDS = [
    "model",
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "n",
    "stop",
    "seed",
    "stream",
    "logprobs",
    "top_logprobs",
    "presence_penalty",
    "repetition_penalty",
    "tools",
    "tool_choice",
    "images",
    "stream_options",
    "continue_final_message",
]
MESSAGES: list[Any] = [
    [],
    [{}],
    [{"role": "user"}],
    [{"role": "emperor", "content": "x"}],
    [{"role": "user", "content": [{"type": "video_url", "video_url": "x"}]}],
    [{"role": "user", "content": [{"type": "image_url"}]}],
    [{"role": "user", "content": "<image><image>"}],
    [{"role": "user", "content": "<img>/etc/passwd</img>"}],
    [{"role": "user", "content": "<|image_pad|>" * 9}],
    [{"role": "assistant", "content": "x"}],
    [{"role": "tool", "content": None, "tool_calls": [{}]}],
    [{"role": "user", "content": "x"}] * 5000,
    [{"role": "user", "content": "x " * 200_000}],
]
TEXTS: list[Any] = [
    [], "", [""], [[]], [-1], [10**9], [[1], "x"], [1, "x"], [True], [2**70], ["x"] * 200, {"a": 1}, [[0] * 50_000],
]  # fmt: skip
PRIVATE = [
    "http://127.0.0.1:{port}/",
    "http://localhost:{port}/",
    "http://127.1:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://[::1]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://0.0.0.0:{port}/",
    "http://user@127.0.0.1:{port}/",
    "http://169.254.169.254/",
    "http://10.0.0.1/",
    "http://192.168.0.1/",
    "http://[fe80::1]/",
    "http://[fd00::1]/",
    "http://[64:ff9b::7f00:1]/",
    "gopher://127.0.0.1:{port}/",
    "HTTP://LOCALHOST:{port}/",
    "http:///x",
    "http://127.0.0.1:99999/",
    "http://127.0.0.1:{port}@example.invalid/",
    "http://①②⑦.0.0.1/",
    "http://[/",
]
FILES = [
    "file:///etc/passwd",
    "file://{folder}/secret.txt",
    "file://{folder}/open/../secret.txt",
    "file://{folder}/open/%2e%2e/secret.txt",
    "file://{folder}/open/link.png",
    "file://{folder}/open/text.png",
    "file://{folder}/open",
    "file://other/{folder}/open/text.png",
    "file:///proc/self/environ",
    "file:///dev/zero",
    "file:{folder}/secret.txt",
    "FILE:///etc/passwd",
    "file://{folder}/open/%00",
    "{folder}/secret.txt",
    "../secret.txt",
    "/etc/passwd",
    "file:///etc/passwd%0a.png",
    "file://{folder}/open/////../secret.txt",
]
HEADS = (
    "".join(f"X-{i}: {'y' * 100}\r\n" for i in range(2000)),
    f"X: {'y' * 200_000}\r\n",
    "Content-Length: -5\r\n",
    "Content-Length: 99999999999999999999\r\n",
    "Content-Length: 5\r\nContent-Length: 6\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Content-Length: 7\r\nTransfer-Encoding: chunked\r\n",
    "Authorization: Bearer \xff\xfe\r\n",
    "Content-Encoding: gzip\r\n",
    "Upgrade: websocket\r\nConnection: Upgrade\r\n",
    "Expect: 100-continue\r\n",
    "bad header\r\n",
)
TORN = ("Transfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n")
PATHS = (
    "/../../etc/passwd",
    "/v1/models/..%2f..%2fetc%2fpasswd",
    "/" + "a" * 9000,
    "/%00",
    "//v1//models",
    "*",
    "/v1/models/nobody",
)
BODIES = (
    b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe", b"{}", b"[" * 100_000, b'{"a":' * 50_000, b"NaN",
    b'{"model":"eyes","model":"eyes"}', b"\0" * 1000, b"9" * 100_000, b'{"messages": "' + b"x" * 5000,
)  # fmt: skip


def cases(secret: Path, port: str) -> dict[str, Case]:
    """What a hostile client may send: whole requests as bytes, by kind."""

    def wrong_types(draw: random.Random) -> bytes:
        path = draw.choice(("/v1/chat/completions", "/v1/completions", "/score", "/pooling", "/v1/embeddings"))
        return request(chat(**{draw.choice(FIELDS): draw.choice(WRONG)}, **draw.choice(({}, {"x": 1}))), path)

    def broken(draw: random.Random) -> bytes:
        cut = chat()[: draw.randrange(1, 60)]
        return request(draw.choice((*BODIES, cut)))

    def texts(draw: random.Random) -> bytes:
        body = {"model": "eyes", "prompt": draw.choice(TEXTS), "max_tokens": 2}
        return request(json.dumps(body).encode(), "/v1/completions")

    def huge(draw: random.Random) -> bytes:
        head = "Transfer-Encoding: chunked\r\n" if draw.random() < 0.5 else ""
        body = chat(messages=[{"role": "user", "content": "x" * (2 << 20)}])
        return request(f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n" if head else body, head=head)

    def pictures(draw: random.Random) -> bytes:
        kind = draw.choice(("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"))
        noise = (b"", b"GIF89a", draw.randbytes(300), b"%!PS-Adobe-3.0 EPSF", SECRET.encode(), b"\x89PNG\r\n\x1a\n")
        return picture(inline(draw.choice((damaged(draw, kind), draw.choice(noise)))))

    return {
        "broken": broken,
        "wrong types": wrong_types,
        "messages": lambda draw: request(chat(messages=draw.choice(MESSAGES))),
        "texts": texts,
        "huge": huge,
        "pictures": pictures,
        "bombs": lambda draw: picture(inline(bomb(draw.choice((30_000, 60_000, 1)), draw.choice((60_000, 2**31 - 1))))),
        "addresses": lambda draw: picture(draw.choice(PRIVATE).format(port=port)),
        "files": lambda draw: picture(draw.choice(FILES).format(folder=secret)),
        "models": lambda draw: request(chat(model=draw.choice(("nobody", "../eyes", "e" * 900, "eyes\0")))),
        "heads": lambda draw: request(chat(), head=draw.choice(HEADS)),
        "torn": lambda draw: request(b"no chunk\r\n", draw.choice((*PATHS, "/v1/completions")), draw.choice(TORN)),
        "paths": lambda draw: request(b"", draw.choice(PATHS), method=draw.choice(("GET", "POST", "DELETE", "TRACE"))),
        "not http": lambda draw: draw.choice(
            (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", draw.randbytes(400) + b"\r\n\r\n")
        ),
    }


def patience(kind: str) -> float:
    """Seconds that a client waits for an answer: some promise more than they send, and get none."""
    return 2 if kind in ("heads", "not http") else 60


def send(url: str, data: bytes, leave: bool, seconds: float) -> tuple[int, bytes]:
    """(status, answer) of bytes on a socket of their own; `leave` goes away before there is one."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname or "", place.port or 0), timeout=seconds) as one:
        try:
            one.sendall(data)
            if leave:
                return GONE, b""
            answer = b""
            while part := one.recv(1 << 16):
                answer += part
        except (ConnectionError, TimeoutError):  # it did not want to hear more
            return GONE, b""
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else GONE, answer
