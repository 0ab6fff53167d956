"""How a model is spread over the devices of its process."""

from __future__ import annotations

import os

from swiftlike.core.devices import own_devices


def local_processes() -> tuple[int, int]:
    """(local rank, local processes) as torchrun says, (0, 1) without it."""
    return int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def device_map(requested: str | None, max_memory: dict[str, str], sharded: bool) -> dict[str, object]:
    """`from_pretrained` keywords that place a model on this process's devices.

    `sharded` engines (ZeRO-3, FSDP) place parameters themselves. One device needs no map. Several get a balanced one
    over just these devices, and accelerate is told that a mapped model under DDP is meant.
    """
    import torch

    if sharded:
        return {}
    rank, processes = local_processes()
    mine = own_devices(torch.cuda.device_count(), processes, rank)
    if requested:
        return {"device_map": _parse(requested), **({"max_memory": _limits(max_memory)} if max_memory else {})}
    if len(mine) <= 1:
        return {}
    if processes > 1:
        os.environ["ACCELERATE_BYPASS_DEVICE_MAP"] = "true"
    limits = _limits(max_memory) or _free(mine, processes)
    return {"device_map": "auto", "max_memory": {d: limits.get(d, 0) for d in mine}}


def _free(mine: list[int], processes: int) -> dict[int | str, int]:
    """Nine tenths of each card's free memory, the least over all processes: DDP needs the same map in each."""
    import torch
    from accelerate.utils import gather_object

    free = [torch.cuda.mem_get_info(d)[0] * 9 // 10 for d in mine]
    if processes > 1:
        free = [min(one) for one in zip(*gather_object([free]), strict=True)]
    return dict(zip(mine, free, strict=True))


def _limits(max_memory: dict[str, str]) -> dict[int | str, str]:
    return {int(name) if name.isdigit() else name: amount for name, amount in max_memory.items()}


def _parse(requested: str) -> object:
    import json
    from pathlib import Path

    if requested.endswith(".json"):
        return json.loads(Path(requested).read_text(encoding="utf-8"))
    return json.loads(requested) if requested.startswith("{") else requested
