"""Pictures of other machines, fetched so that a request cannot make this one reach into its own network.

A name is looked up once, every address it has must be public, and the connection goes to the address that was checked:
a second answer of the name server (DNS rebinding) is never asked for. Redirects begin anew. Proxies are not used.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Sequence
from urllib.parse import SplitResult, urljoin, urlsplit

from swiftlike.data.media import TIMEOUT_S

REDIRECTS = 3
_CHUNK = 1 << 16
_MOVED = (301, 302, 303, 307, 308)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class PictureError(ValueError):
    """A picture that is not fetched, or could not be."""


def is_public(address: Address) -> bool:
    """Whether an address belongs to the internet at large, and so does the IPv4 address that it may carry inside."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner) and (address.ipv4_mapped is not None or address.is_global)
    return address.is_global and not address.is_multicast


def addresses(host: str, port: int) -> list[str]:
    """What a host's name stands for. PictureError when it stands for nothing."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise PictureError("its host is unknown") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def fetch(url: str, *, max_bytes: int, hosts: Sequence[str] = (), seconds: float = TIMEOUT_S) -> bytes:
    """The bytes behind a URL.

    `hosts` are the only ones that may be asked, when there are any; those named there may be private. PictureError for
    anything but http and https, for other addresses, for more than `max_bytes` and after `seconds` for all of it.
    """
    opened: list[socket.socket] = []
    late = threading.Event()

    def stop() -> None:
        late.set()
        for one in opened:
            with contextlib.suppress(OSError):  # closed already
                one.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        for _ in range(REDIRECTS + 1):
            target = _target(url, hosts)
            found = _get(target, _checked(target, hosts), opened, max_bytes=max_bytes, seconds=seconds)
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise PictureError(f"more than {REDIRECTS} redirects")
    except (OSError, http.client.HTTPException, ValueError) as error:
        if late.is_set():
            raise PictureError(f"it took more than {seconds:g} seconds") from error
        if isinstance(error, PictureError):
            raise
        raise PictureError("its server gave no answer that can be read") from error
    finally:
        timer.cancel()


def _target(url: str, hosts: Sequence[str]) -> SplitResult:
    try:
        target = urlsplit(url)
        if target.scheme not in ("http", "https") or not target.hostname:
            raise PictureError("only http and https are read")
        _ = target.port  # raises where it is no number
    except ValueError as error:
        raise error if isinstance(error, PictureError) else PictureError("it is not a URL") from error
    if target.username is not None or target.password is not None:
        raise PictureError("a URL with a user's name is not read")
    if hosts and target.hostname not in hosts:
        raise PictureError("its host is not among --allowed_media_domains")
    return target


def _port(target: SplitResult) -> int:
    return target.port or (443 if target.scheme == "https" else 80)


def _checked(target: SplitResult, hosts: Sequence[str]) -> list[str]:
    """Addresses to connect to: all of them public, or of a host that the server's owner named."""
    host = target.hostname or ""
    found = addresses(host, _port(target))
    if host in hosts:
        return found
    for text in found:
        if not is_public(ipaddress.ip_address(text.partition("%")[0])):
            raise PictureError("its address is not public")
    return found


def _get(
    target: SplitResult, addresses_: Sequence[str], opened: list[socket.socket], *, max_bytes: int, seconds: float
) -> bytes | str:
    """The body, or where a redirect leads."""
    sock = _connected(addresses_, _port(target), seconds)
    opened.append(sock)
    with contextlib.closing(sock):
        if target.scheme == "https":
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=target.hostname)
            opened.append(sock)
        connection = http.client.HTTPConnection(target.hostname or "", _port(target), timeout=seconds)
        connection.sock = sock
        with contextlib.closing(connection):
            path = (target.path or "/") + (f"?{target.query}" if target.query else "")
            connection.putrequest("GET", path, skip_host=True)
            connection.putheader("Host", target.netloc)
            connection.putheader("User-Agent", "swiftlike")
            connection.putheader("Accept", "image/*")
            connection.putheader("Connection", "close")
            connection.endheaders()
            return _answer(connection.getresponse(), max_bytes)


def _connected(addresses_: Sequence[str], port: int, seconds: float) -> socket.socket:
    last: OSError | None = None
    for address in addresses_:
        try:
            return socket.create_connection((address, port), timeout=seconds)
        except OSError as error:
            last = error
    raise PictureError("its server cannot be reached") from last


def _answer(answer: http.client.HTTPResponse, max_bytes: int) -> bytes | str:
    where = answer.getheader("Location")
    if answer.status in _MOVED and where:
        return where
    if answer.status != 200:
        raise PictureError(f"its server answered {answer.status}")
    found = bytearray()
    while chunk := answer.read(_CHUNK):
        found += chunk
        if len(found) > max_bytes:
            raise PictureError(f"it has more than {max_bytes / 2**20:g} MB")
    return bytes(found)
