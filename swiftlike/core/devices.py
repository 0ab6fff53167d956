"""Which devices a process owns. Pure arithmetic on counts: no device is touched."""

from __future__ import annotations

from swiftlike.core.errors import UserError


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
