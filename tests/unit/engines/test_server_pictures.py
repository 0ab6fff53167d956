"""Pictures that a server fetches or reads for strangers."""

from __future__ import annotations

import asyncio
import http.server
import io
import ipaddress
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import pytest

from swiftlike.engines.server.errors import ApiError
from swiftlike.engines.server.pictures import Pictures
from swiftlike.engines.server.remote import PictureError, fetch, is_public

HOSTS = ("127.0.0.1",)


def png(width: int = 8, height: int = 8) -> bytes:
    out = io.BytesIO()
    PIL.Image.new("1", (width, height)).save(out, "PNG")
    return out.getvalue()


class Web(http.server.BaseHTTPRequestHandler):
    """/picture, /twice (leads there), /round (leads to itself), /away?URL (leads to URL), /endless, /drip."""

    def do_GET(self) -> None:
        what, _, rest = self.path.partition("?")
        targets = {"/twice": "/picture", "/round": "/round", "/away": rest}
        if what in targets:
            self.send_response(302)
            self.send_header("Location", targets[what])
            self.end_headers()
        elif what == "/missing":
            self.send_error(404)
        elif what == "/drip":
            while True:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX: y\r\n"[:1])
                self.wfile.flush()
                threading.Event().wait(0.05)
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(png() if what == "/picture" else b"x" * (1 << 20))

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("path", ["/picture", "/twice", "/away?/picture"])
def test_a_picture_of_a_named_host_is_fetched(web: str, path: str) -> None:
    assert fetch(web + path, max_bytes=1 << 16, hosts=HOSTS) == png()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/round", "redirects"),
        ("/missing", "answered 404"),
        ("/endless", "more than"),
        ("/away?file:///etc/passwd", "only http"),
        ("/away?http://localhost/", "allowed_media_domains"),
        ("/away?http://[", "can be read"),
    ],
)
def test_what_a_host_may_not_do(web: str, path: str, reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        fetch(web + path, max_bytes=1 << 16, hosts=HOSTS)


def test_a_server_that_drips_is_left(web: str) -> None:
    with pytest.raises(PictureError, match=r"0\.5 seconds"):
        fetch(f"{web}/drip", max_bytes=1 << 16, hosts=HOSTS, seconds=0.5)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.0.0.1", "[::ffff:127.0.0.1]"])
def test_a_private_address_is_never_connected_to(web: str, host: str) -> None:
    port = web.rpartition(":")[2]
    with pytest.raises(PictureError, match=r"not public|unknown"):
        fetch(f"http://{host}:{port}/picture", max_bytes=1 << 16)


def test_every_address_of_a_host_is_checked(monkeypatch: pytest.MonkeyPatch, web: str) -> None:
    port = int(web.rpartition(":")[2])
    asked = []

    def resolve(host: str, port: int, **_: object) -> list[tuple]:
        asked.append(host)
        return [(socket.AF_INET, 1, 6, "", (address, port)) for address in ("93.184.215.14", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(PictureError, match="not public"):
        fetch(f"http://pictures.example:{port}/picture", max_bytes=1 << 16)
    assert asked == ["pictures.example"]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("::ffff:93.184.215.14", True),
        *(
            (one, False)
            for one in ("10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0")
        ),
        *((one, False) for one in ("224.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fd00::1", "ff02::1")),
        *((one, False) for one in ("::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::", "2001:db8::1")),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) == public


def read(pictures: Pictures, *urls: str) -> list[bytes | str]:
    found = asyncio.run(pictures.read([(url, f"picture {i}") for i, url in enumerate(urls)]))
    return [one.source for one in found]


def test_files_are_read_below_the_folder_only(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "a b.png").write_bytes(png())
    (tmp_path / "closed.png").write_bytes(png())
    (tmp_path / "open" / "link.png").symlink_to(tmp_path / "closed.png")
    pictures = Pictures(folder=tmp_path / "open")
    assert read(pictures, f"file://{tmp_path}/open/a%20b.png") == [png()]
    texts = set()
    for url in ("open/link.png", "closed.png", "open/../closed.png", "open/%2e%2e/closed.png", "open/none.png", "open"):
        with pytest.raises(ApiError) as error:
            read(pictures, f"file://{tmp_path}/{url}")
        texts.add(str(error.value))
    assert len(texts) == 1  # what exists cannot be told from what does not
    with pytest.raises(ApiError, match="allowed_local_media_path"):
        read(Pictures(), f"file://{tmp_path}/open/a%20b.png")


def test_all_pictures_of_a_request_count_together() -> None:
    import base64

    url = "data:image/png;base64," + base64.b64encode(png(6000, 6000)).decode()
    assert len(read(Pictures(), url)) == 1
    with pytest.raises(ApiError, match="pixels in one request"):
        read(Pictures(), url, url)
    with pytest.raises(ApiError, match="may have 1"):
        read(Pictures(most=1), url, url)
