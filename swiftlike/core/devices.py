"""Which devices there are, and which a process owns. No device is touched."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping

from swiftlike.core.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def own_devices(visible: int, processes: int, rank: int) -> list[int]:
    """Devices of local process `rank`: every `processes`-th visible one. Empty without devices.

    With one process that is all of them (device map), with as many processes as devices one each (DDP), with fewer
    processes a share (DDP and device map together).
    """
    if visible == 0:
        return []
    if visible < processes or visible % processes:
        raise UserError(
            f"{visible} visible cards cannot be shared evenly by NPROC_PER_NODE={processes} processes",
            hint=f"set CUDA_VISIBLE_DEVICES to a multiple of {processes} cards, "
            f"or NPROC_PER_NODE to a divisor of {visible}",
        )
    return list(range(rank, visible, processes))


def visible_devices(env: Mapping[str, str]) -> list[str]:
    """Names of the cards that this process may use, without importing torch."""
    if VISIBLE in env:
        names = [name.strip() for name in env[VISIBLE].split(",")]
        return names[: names.index("-1")] if "-1" in names else [name for name in names if name]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=60)
    return [str(at) for at, _ in enumerate(line for line in listed.stdout.splitlines() if line.startswith("GPU"))]


def amount(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
