"""How a model is spread over the devices of its process."""

from __future__ import annotations

import contextlib
import dataclasses as dc
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swiftlike.core.devices import amount, own_devices
from swiftlike.core.errors import UserError
from swiftlike.core.log import get_logger
from swiftlike.models.load import skeleton

log = get_logger(__name__)

Device = int | str  # a card's number among the visible ones, "cpu" or "disk"
CARE = 9, 10  # the part of a card's free memory that weights may fill
BALANCED, SEQUENTIAL = ("auto", "balanced"), "sequential"


@dc.dataclass(frozen=True)
class Spread:
    """Which modules go where, in the model's order, and how many bytes of weights lie on each device."""

    where: Mapping[str, Device]
    sizes: Mapping[Device, int]

    def lines(self) -> list[str]:
        """For people: `cuda:0: model.embed_tokens, model.layers.0-6 (3.35 GiB of weights)`."""
        return [
            f"{label(device)}: {', '.join(_ranges(name for name, at in self.where.items() if at == device))} "
            f"({amount(size)} of weights)"
            for device, size in self.sizes.items()
        ]


def label(device: Device) -> str:
    """A device as torch calls it."""
    return f"cuda:{device}" if isinstance(device, int) else device


def local_processes() -> tuple[int, int]:
    """(local rank, local processes) as torchrun says, (0, 1) without it."""
    return int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def device_map(asked: Any, config: Any, dtype: torch.dtype, sharded: bool = False) -> dict[str, Any]:
    """`from_pretrained` keywords that place a model on this process's devices. `asked` are the model's flags.

    `sharded` engines (ZeRO-3, FSDP) place parameters themselves, and one device needs no map. A map is made here and
    handed over whole, so that what runs is what `--dry_run` shows; accelerate is told where it is meant under DDP.
    """
    rank, processes = local_processes()
    mine = [] if sharded else own_devices(torch.cuda.device_count(), processes, rank)
    if sharded or not needs_map(asked, len(mine)):
        return {}
    if asked.device_map == "cpu":
        return {"device_map": {"": "cpu"}}
    spread = plan(asked, skeleton(config).to(dtype), _free(mine, processes), rank)
    for line in spread.lines():
        log.info("%s", line)
    if processes > 1:
        os.environ["ACCELERATE_BYPASS_DEVICE_MAP"] = "true"
    return {"device_map": dict(spread.where)}


def needs_map(asked: Any, cards: int) -> bool:
    """Whether weights are placed by a map: on several cards, or where the flags say more than "all on one device"."""
    requested, one = asked.device_map, cards == 0 or (cards == 1 and not asked.max_memory)
    return not one if requested in (None, *BALANCED, SEQUENTIAL) else True


def plan(asked: Any, model: nn.Module, free: Mapping[int, int], rank: int = 0) -> Spread:
    """The map of a model without weights (meta device, in the type that it is loaded in) over the cards of a process,
    `free` bytes of each. Pure: no device is touched."""
    if asked.device_map in (None, *BALANCED, SEQUENTIAL):
        given = _limits(asked.max_memory)
        limits = {**({card: given.get(card, 0) for card in free} if given else free)}
        limits |= {name: size for name, size in given.items() if name in ("cpu", "disk")}
        where = spread(model, limits, balanced=asked.device_map != SEQUENTIAL, bits=asked.quant_bits)
    else:
        where = _own(asked.device_map, model, rank)
    return Spread(where, _filled(where, module_sizes(model, asked.quant_bits)))


# -- a map over cards -------------------------------------------------------------------------------------------------


def spread(model: Any, limits: Mapping[Device, int], balanced: bool = True, bits: int = 0) -> dict[str, Device]:
    """Module to device: accelerate's choice, in the order of the modules, with layers and vision blocks whole and
    tied weights together; `balanced`: in parts as equal as they can be.

    What meets at the entrance is kept on the first card, whatever the balance says: vision tower, projector and input
    embeddings. Rotary embeddings and the like, which hold no weights, are there too: every layer reads what they make.
    """
    from accelerate import infer_auto_device_map

    sizes, blocks = module_sizes(model, bits), list(model._no_split_modules or ())
    whole = [
        sizes.get(n, 0) for n, one in model.named_modules() if type(one).__name__ in blocks or not list(one.children())
    ]
    largest = max(whole, default=0)
    cards = [one for one, limit in limits.items() if isinstance(one, int) and limit]
    front = sum(sizes.get(name, 0) for name in _entrance(model))

    def filled(room: Mapping[Device, int]) -> dict[str, Device]:
        # on the first card accelerate leaves room to fetch other parts: where none is kept elsewhere, on one without
        none = {} if {"cpu", "disk"} & room.keys() else {-1: 0}
        with _quiet():
            return infer_auto_device_map(model, {**none, **room}, no_split_module_classes=blocks, **_types(model, bits))

    shares = _shares(limits, cards, sizes[""], front, largest) if balanced and len(cards) > 1 else ()
    where = next((one for share in shares if not _left(one := filled(share))), None) or filled(limits)
    if _left(where) and not {"cpu", "disk"} & limits.keys():
        raise _too_big(sizes[""], [limits[card] for card in cards])
    modules = dict(model.named_modules())  # a map may name single weights too
    light = [name for name in where if name in modules and next(modules[name].parameters(), None) is None]
    where |= dict.fromkeys(light, min(where.values(), key=str))
    order = ["", *(name for name, _ in model.named_parameters()), *modules]
    where = dict(sorted(where.items(), key=lambda one: order.index(one[0])))
    if len(cards) > 1 and _at_entrance(model, where) != {cards[0]}:
        raise UserError(
            f"vision tower, projector and embeddings take {amount(front)}: they do not fit on the first card together",
            hint="give a larger first card, or a map of your own: --device_map FILE.json",
        )
    return where


def _shares(
    limits: Mapping[Device, int], cards: list[int], total: int, front: int, largest: int
) -> Iterator[dict[Device, int]]:
    """Limits to try, each a quarter of a layer above the one before, until the model fits: its largest part is then as
    small as it can be. (accelerate's own balance adds slack to every card, and leaves the last of many empty.)"""
    first, *others = cards
    rest = {name: limit for name, limit in limits.items() if name not in cards}
    for more in range(64):
        even = total // len(cards) + more * largest // 4
        each = max(total - front, 0) // len(others) + more * largest // 4 if front > even else even
        room = {first: min(max(even, front), limits[first])}
        yield room | {card: min(each, limits[card]) for card in others} | rest


def _left(where: Mapping[str, Device]) -> bool:
    """Whether something found no place on a card."""
    return bool({"cpu", "disk"} & set(where.values()))


def beside(model: Any) -> list[str]:
    """Names of the modules beside the language model: vision tower, projector."""
    decoder = model.get_decoder()
    inside = {id(one) for one in decoder.modules()} | {id(model.get_output_embeddings())}
    around = [one for one in (model, getattr(model, model.base_model_prefix, None)) if one not in (None, decoder)]
    names = {id(one): name for name, one in model.named_modules()}
    found = [child for one in around for child in one.children()]
    holds = {id(one) for one in model.modules() if any(below is decoder for below in one.modules())}
    return [names[id(one)] for one in found if id(one) not in inside | holds]


def _entrance(model: Any) -> list[str]:
    """All that works on what goes in."""
    names = {id(one): name for name, one in model.named_modules()}
    return [*beside(model), names[id(model.get_input_embeddings())]]


def _at_entrance(model: Any, where: Mapping[str, Device]) -> set[Device]:
    """Devices that what goes in meets."""
    found = set()
    for part in _entrance(model):
        found |= {at for name, at in where.items() if _below(name, part) or _below(part, name)}
    return found


def _too_big(weights: int, limits: list[int]) -> UserError:
    room = " + ".join(amount(limit) for limit in limits) or "nothing"
    return UserError(
        f"the model's weights are {amount(weights)}, and may take {room}",
        hint="use more cards, --quant_bits 4, or --deepspeed zero3; --max_memory with cpu=100GiB keeps the rest in the "
        "computer's memory (answers only)",
    )


# -- sizes ------------------------------------------------------------------------------------------------------------


def module_sizes(model: nn.Module, bits: int = 0) -> dict[str, int]:
    """Bytes of every module by name, "" the whole; weights that are tied count once, at the first of their places."""
    from accelerate.utils import compute_module_sizes

    return {name: int(size) for name, size in compute_module_sizes(model, **_types(model, bits)).items()}


def _types(model: Any, bits: int) -> dict[str, Any]:
    """What bitsandbytes will change: every linear layer but the output head."""
    if not bits:
        return {}
    from accelerate.utils import CustomDtype

    head = model.get_output_embeddings()
    packed = {id(one.weight) for one in model.modules() if isinstance(one, nn.Linear) and one.weight is not head.weight}
    usual = {name: one.dtype for name, one in model.named_parameters() if id(one) not in packed}
    return {"dtype": CustomDtype.INT4 if bits == 4 else torch.int8, "special_dtypes": usual}


def _filled(where: Mapping[str, Device], sizes: Mapping[str, int]) -> dict[Device, int]:
    filled: dict[Device, int] = {}
    for name, device in where.items():
        filled[device] = filled.get(device, 0) + sizes.get(name, 0)
    return filled


def _free(mine: list[int], processes: int) -> dict[int, int]:
    """Nine tenths of each card's free memory, the least over all processes: DDP needs the same map in each."""
    from accelerate.utils import gather_object

    free = [torch.cuda.mem_get_info(d)[0] * CARE[0] // CARE[1] for d in mine]
    if processes > 1:
        free = [min(one) for one in zip(*gather_object([free]), strict=True)]
    return dict(zip(mine, free, strict=True))


def _limits(max_memory: Mapping[str, str]) -> dict[Device, int]:
    from accelerate.utils import convert_file_size_to_int

    try:
        return {int(n) if n.isdigit() else n: convert_file_size_to_int(size) for n, size in max_memory.items()}
    except ValueError as error:
        raise UserError(f"--max_memory: {error}", hint="write 0=20GiB 1=40GiB") from error


# -- the user's own map -----------------------------------------------------------------------------------------------


def _own(requested: str, model: nn.Module, rank: int) -> dict[str, Device]:
    """A file, JSON, or one device for all. Card numbers are those of the first process; the others' come after."""
    if not requested.endswith(".json") and not requested.startswith("{"):
        return {"": requested}
    try:
        text = Path(requested).read_text(encoding="utf-8") if requested.endswith(".json") else requested
        given = json.loads(text)
    except (OSError, ValueError) as error:
        raise UserError(f"--device_map {requested}: {error}") from error
    unknown = [name for name in given if name and name not in dict(model.named_modules())]
    missing = [name for name, _ in model.named_parameters() if not any(_below(name, one) for one in given)]
    if unknown or missing:
        lines = [f"no module is called {name}" for name in unknown] + [f"no device for {name}" for name in missing[:5]]
        raise UserError("--device_map does not fit this model:", problems=lines)
    return {name: at + rank if isinstance(at, int) else at for name, at in given.items()}


def _below(name: str, module: str) -> bool:
    return not module or name == module or name.startswith(f"{module}.")


# -- words ------------------------------------------------------------------------------------------------------------


def _ranges(names: Iterator[str]) -> list[str]:
    """`layers.0`, `layers.1`, `layers.2` as `layers.0-2`."""
    found: list[tuple[str, int | None, int | None]] = []
    for name in names:
        numbered = re.fullmatch(r"(.*\.)(\d+)", name)
        stem, number = (numbered[1], int(numbered[2])) if numbered else (name or "everything", None)
        if found and number is not None and found[-1][0] == stem and found[-1][2] == number - 1:
            found[-1] = (stem, found[-1][1], number)
        else:
            found.append((stem, number, number))
    return [
        stem if first is None else f"{stem}{first}" + (f"-{last}" if last != first else "")
        for stem, first, last in found
    ]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """accelerate warns of every planned card that this machine does not have."""
    theirs = logging.getLogger("accelerate.utils.modeling")
    before = theirs.level
    theirs.setLevel(logging.ERROR)
    try:
        yield
    finally:
        theirs.setLevel(before)
