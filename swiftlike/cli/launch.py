"""One process or many: NPROC_PER_NODE and its kin start torchrun."""

from __future__ import annotations

import dataclasses as dc
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from swiftlike.core.devices import own_devices, visible_devices
from swiftlike.core.environment import number, place, this_start

SPOKEN = "_SWIFTLIKE_SPOKEN"  # names a file that the first process to report an error makes; set by TORCHRUN
PORT = 29500  # where several machines meet when MASTER_PORT does not say
TORCHRUN = "swiftlike.pipelines.elastic"


@dc.dataclass(frozen=True)
class Launch:
    """How many processes run where. `processes` is per machine."""

    processes: int = 1
    nodes: int = 1
    node: int = 0
    address: str = "127.0.0.1"
    port: int | None = None
    restarts: int = 0  # how often processes that fail are started again

    def command(self, argv: Sequence[str]) -> list[str]:
        """The torchrun command that runs `swiftlike argv` in every process."""
        return [
            *(sys.executable, "-m", TORCHRUN, "--nproc_per_node", str(self.processes)),
            *self._meeting(),
            *(("--max_restarts", str(self.restarts)) if self.restarts else ()),
            *("-m", "swiftlike", *argv),
        ]

    def _meeting(self) -> list[str]:
        """Where the processes find each other. On one machine torchrun takes a port that is free, so that several runs
        get along; several machines have to agree on one."""
        if self.nodes == 1 and self.port is None:
            return ["--standalone"]
        if self.restarts:  # they meet anew, and machines number themselves each time
            endpoint = f"{self.address}:{PORT if self.port is None else self.port}"
            return ["--nnodes", str(self.nodes), "--rdzv_backend", "c10d", "--rdzv_endpoint", endpoint]
        meeting = ("--master_addr", self.address, "--master_port", str(PORT if self.port is None else self.port))
        return ["--nnodes", str(self.nodes), "--node_rank", str(self.node), *meeting]


def plan(env: Mapping[str, str]) -> Launch | None:
    """The processes that the environment asks for; None for just this one, or when torchrun already started it."""
    if "LOCAL_RANK" in env:
        return None
    node, nodes = place(env, "NODE_RANK", "NNODES")
    launch = Launch(
        processes=number(env, "NPROC_PER_NODE", 1, least=1),
        nodes=nodes,
        node=node,
        address=env.get("MASTER_ADDR") or Launch.address,
        port=number(env, "MASTER_PORT", 0, least=1) or None,
        restarts=number(env, "MAX_RESTARTS", 0),
    )
    return launch if launch.processes > 1 or launch.nodes > 1 or launch.restarts else None


def start(argv: Sequence[str], env: Mapping[str, str]) -> None:
    """Become torchrun when several processes are asked for; otherwise return. Signals then reach torchrun itself."""
    launch = plan(env)
    if launch is None:
        return
    own_devices(len(visible_devices(env)), launch.processes, 0)  # a number that cannot be placed fails before launching
    words = launch.command(argv)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvp(words[0], words)


def speaks(env: Mapping[str, str]) -> bool:
    """Whether this process reports an error that all of them meet: the first one does. Alone, or under a torchrun
    that is not ours, each does. Not simply rank 0: it would be stopped before it speaks when another fails sooner."""
    if not env.get(SPOKEN):
        return True
    try:
        _mark(env).touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return True  # the launcher is gone
    return True


def spoken(env: Mapping[str, str]) -> bool:
    """Whether another process has reported an error, or a stop, that this one's failure may follow from."""
    return bool(env.get(SPOKEN)) and _mark(env).exists()


def _mark(env: Mapping[str, str]) -> Path:
    """One for every start of the processes."""
    return Path(f"{env[SPOKEN]}.{this_start(env)}")
