"""This machine among those that work on a recipe together: DIST_NNODES and its kin, as AIPO names them."""

from __future__ import annotations

import dataclasses as dc
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from swiftlike.core import environment, log
from swiftlike.core.errors import UserError

Found = TypeVar("Found")
_log = log.get_logger(__name__)
_FIRST_WORD = 30.0  # seconds of waiting before it is said


@dc.dataclass(frozen=True, kw_only=True)
class Machine:
    """`rank` of `count`; torchrun meets at `address`:`port`."""

    rank: int = 0
    count: int = 1
    processes: int | None = None
    address: str = "127.0.0.1"
    port: int = 29500

    @property
    def leads(self) -> bool:
        """Whether this one does what only one may do."""
        return self.rank == 0

    def training(self, processes: int | None) -> dict[str, str]:
        """What torchrun is told."""
        found = {} if self.count == 1 else {"NNODES": str(self.count), "NODE_RANK": str(self.rank)}
        if self.count > 1:
            found |= {"MASTER_ADDR": self.address, "MASTER_PORT": str(self.port)}
        processes = processes if processes is not None else self.processes
        return found if processes is None else found | {"NPROC_PER_NODE": str(processes)}


def machine_of(env: Mapping[str, str]) -> Machine:
    """Read the environment. An address may be IPv6, in brackets or not; of several ports the first one counts."""
    rank, count = environment.place(env, "DIST_NODE_RANK", "DIST_NNODES")
    address = env.get("DIST_MASTER_ADDR", "").strip() or Machine.address
    port = env.get("DIST_MASTER_PORT", "").partition(",")[0].strip() or str(Machine.port)
    if not port.isdigit():
        raise UserError(f"DIST_MASTER_PORT={env['DIST_MASTER_PORT']!r} is not a port")
    processes = environment.number(env, "DIST_NPROC_PER_NODE", 0)
    return Machine(rank=rank, count=count, processes=processes or None, address=_bracketed(address), port=int(port))


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address and not address.startswith("[") else address


def wait(
    find: Callable[[], Found | None], what: Callable[[], str], timeout: float, alive: Callable[[], object]
) -> Found:
    """What `find` gives as soon as it gives something. UserError, with what is missing, after `timeout` seconds in
    which `alive` did not change either."""
    begun, said, sign = time.monotonic(), False, alive()
    while (found := find()) is None:
        if (now := alive()) != sign:
            begun, sign = time.monotonic(), now
        waited = time.monotonic() - begun
        if waited > timeout:
            raise UserError(
                f"waited {timeout:.0f} s for {what()}",
                hint="start the same command there again: what is done stays; --wait_timeout waits longer",
            )
        if waited > _FIRST_WORD and not said:
            _log.info("waiting for %s", what())
            said = True
        time.sleep(0.2 if waited < _FIRST_WORD else 2.0)
    return found
