"""Whether a run can fit at all, from counts alone: asked of every run, before weights are loaded."""

from __future__ import annotations

import torch

from swiftlike.core.devices import amount, own_devices
from swiftlike.core.errors import UserError
from swiftlike.core.log import world_size
from swiftlike.core.merge import Run
from swiftlike.losses.base import LossCard
from swiftlike.models.load import DTYPES, weight_dtype
from swiftlike.models.placement import BALANCED, SEQUENTIAL, local_processes
from swiftlike.pipelines.plan import Plan

# Bytes of gradient and state for a trained weight in float32, where they are certain: others may keep less.
KEPT = {"adamw_torch": 4 + 8, "adamw_torch_fused": 4 + 8}


def refuse_too_large(run: Run, card: LossCard, plan: Plan) -> None:
    """UserError when weights, gradients and the optimiser's state are more than the memory of this process's devices.

    What a step needs beside them is an estimate (`--dry_run`, `swiftlike plan`), and an estimate refuses nothing.
    """
    need, room = least(run, card, plan), memory()
    if need <= room:
        return
    where = "its GPUs have" if torch.cuda.is_available() else "the computer has"
    raise UserError(
        f"this run cannot fit: weights, gradients and optimiser take at least {amount(need)} in each process, {where} "
        f"{amount(room)} for it",
        hint="`swiftlike plan` with the same flags shows what every placement takes, and the cheapest that fits",
        problems=smaller(run),
    )


def least(run: Run, card: LossCard, plan: Plan) -> int:
    """Bytes that one process holds whatever its rows are; 0 where an engine or a map may keep them elsewhere."""
    train, full = run.train, run.tuner.sft_type == "full"
    engine = train.deepspeed or ""
    elsewhere = (
        run.model.device_map not in (None, *BALANCED, SEQUENTIAL) or {"cpu", "disk"} & run.model.max_memory.keys()
    )
    if engine.endswith((".json", "offload")) or "offload" in (train.fsdp or "") or elsewhere:
        return 0
    bits = run.model.quant_bits or 8 * weight_dtype(DTYPES[run.model.torch_dtype], full).itemsize
    width = 2 if run.tuner.lora_dtype in ("bfloat16", "float16") and not full else 4
    weights = plan.parameters * bits // 8
    kept = plan.trainable * KEPT.get(train.optim, 0) * width // 4
    copy = weights if full and card.needs_reference(run.loss) else 0  # loaded before there are gradients
    return (weights + max(kept, copy)) // (world_size() if engine or train.fsdp else 1)


def memory() -> int:
    """Bytes of this process's devices; without a GPU of the computer's memory, swap included, over its processes."""
    rank, processes = local_processes()
    if torch.cuda.is_available():
        mine = own_devices(torch.cuda.device_count(), processes, rank)
        return sum(torch.cuda.get_device_properties(one).total_memory for one in mine)
    import psutil

    return (psutil.virtual_memory().total + psutil.swap_memory().total) // processes


def smaller(run: Run) -> list[str]:
    """What needs less, what costs least first."""
    train, tuner = run.train, run.tuner
    offers = {
        "--sft_type lora: adapters instead of all weights": tuner.sft_type == "full",
        "--torch_dtype bfloat16: half the bytes": tuner.sft_type == "lora" and run.model.torch_dtype == "float32",
        "--quant_bits 4: the base in 4 bits (a GPU)": tuner.sft_type == "lora" and not run.model.quant_bits,
        "--deepspeed zero3 or --fsdp full_shard: divided over the processes": not (train.deepspeed or train.fsdp),
        "--deepspeed zero3_offload: kept in the computer's memory": torch.cuda.is_available(),
        "a smaller model": True,
    }
    return [offer for offer, helps in offers.items() if helps]
