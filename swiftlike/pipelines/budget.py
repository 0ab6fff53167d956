"""Memory per device of a training run under every placement, and which is the cheapest one that fits.

What one process needs is counted (weights) or gone through (the step); what DDP, DeepSpeed and FSDP2 divide or add is
what their documentation says of their defaults.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterator
from typing import Any

from swiftlike.core.devices import amount
from swiftlike.models.placement import Spread
from swiftlike.models.rehearsal import Step

GIB = 1 << 30
RESERVE = GIB  # of a card, for the CUDA context and the libraries' workspaces
WASTE = 0.05  # of what is allocated, for gaps between allocations
BUCKET = 500_000_000  # numbers that DeepSpeed sends at a time (reduce_bucket_size), and keeps a buffer for
LIVE = 1_000_000_000  # weights that ZeRO-3 keeps gathered at most (stage3_max_live_parameters)
MASTER = 12  # bytes of a trained weight in DeepSpeed's optimiser: a copy in float32, and Adam's moments
PARTS = ("weights", "gradients", "optimiser", "activations", "logits")


@dc.dataclass(frozen=True, kw_only=True)
class Facts:
    """One process that holds a whole copy of the model. Sizes in bytes, `trained` and `whole` in numbers.

    `weights` are all copies, `gradient` and `optimiser` bytes of each trained number, `compute` those of a number that
    is computed with, `stored` those of one that is not packed. `step` is the peak of one micro-batch, `engine` that
    under engines whose weights are in the type that is computed in, `layer` what each layer adds; `block` is the
    largest layer, `root` what belongs to none. `foreach`: the optimiser's step makes a copy of all that it updates.
    """

    weights: int
    whole: int
    trained: int
    gradient: int
    optimiser: int
    compute: int
    stored: int
    step: Step
    engine: Step
    layer: Step
    layers: int
    block: int
    root: int
    foreach: bool


@dc.dataclass(frozen=True)
class Placement:
    """A way to place a run, its memory on the fullest device by PARTS, and the words that ask for it."""

    name: str
    devices: int
    memory: dict[str, int]
    flags: str

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.memory.values())

    def fits(self, card: int | None) -> bool | None:
        """Whether a card of so many bytes is large enough; None: not known."""
        return None if card is None else self.total * (1 + WASTE) + RESERVE <= card


def placements(facts: Facts, cards: int, spread: Spread | None, quantised: bool = False) -> list[Placement]:
    """Every placement on so many cards, the cheapest first: one card before many, then by what is sent per step, then
    the device map (one card computes at a time), then what waits for the computer's memory."""
    found = [Placement("single", 1, _whole(facts), "CUDA_VISIBLE_DEVICES=0" if cards > 1 else "")]
    if cards > 1:
        found += _divided(facts, cards, quantised)
    if cards > 1 and spread is not None:
        found.append(Placement("device map", cards, _mapped(facts, spread), ""))
    if not quantised:
        launch = f"NPROC_PER_NODE={cards} " if cards > 1 else ""
        for name in ("zero2_offload", "zero3_offload"):
            found.append(Placement(name, cards, _deepspeed(facts, cards, name), f"{launch}--deepspeed {name}"))
    return found


def _divided(facts: Facts, cards: int, quantised: bool) -> Iterator[Placement]:
    launch = f"NPROC_PER_NODE={cards}"
    yield Placement("ddp", cards, _whole(facts, buckets=True), launch)
    if quantised:
        return  # DeepSpeed and FSDP would have to divide packed weights
    for name in ("zero1", "zero2"):
        yield Placement(name, cards, _deepspeed(facts, cards, name), f"{launch} --deepspeed {name}")
    yield Placement("fsdp full_shard", cards, _fsdp(facts, cards), f"{launch} --fsdp full_shard")
    yield Placement("zero3", cards, _deepspeed(facts, cards, "zero3"), f"{launch} --deepspeed zero3")


def cheapest(found: list[Placement], card: int | None) -> Placement | None:
    """The first that fits."""
    return next((one for one in found if one.fits(card)), None)


# -- one copy per process ---------------------------------------------------------------------------------------------


def _whole(facts: Facts, buckets: bool = False) -> dict[str, int]:
    """A model on one card. DDP keeps a second copy of the gradients, in the order in which they are sent."""
    held = facts.trained * facts.gradient
    return _worse(facts, facts.weights, held, facts.trained * facts.optimiser, facts.step, held * buckets)


def _worse(facts: Facts, weights: int, held: int, optimiser: int, step: Step, buffers: int = 0) -> dict[str, int]:
    """The larger of two moments: in the backward pass, or in the optimiser's step, which has no activations."""
    copy = held if facts.foreach else 0
    backward = (weights, step.gradients + buffers, optimiser, step.activations, step.logits)
    update = (weights, held + buffers, optimiser + copy, 0, 0)
    return dict(zip(PARTS, max(backward, update, key=sum), strict=True))


def _mapped(facts: Facts, spread: Spread) -> dict[str, int]:
    """The fullest card of a device map: its weights, what is trained of them, and what its layers keep."""
    total = sum(spread.sizes.values()) or 1
    return max((_card(facts, spread, device, size / total) for device, size in spread.sizes.items()), key=_sum)


def _card(facts: Facts, spread: Spread, device: Any, share: float) -> dict[str, int]:
    own = sum(1 for name, at in spread.where.items() if at == device and name.rpartition(".")[2].isdigit())
    fewer = facts.layers - min(own, facts.layers)
    kept = max(facts.step.activations - fewer * facts.layer.activations, 0)
    last = device == list(spread.where.values())[-1]
    held = int(facts.trained * facts.gradient * share)
    part = Step(int(facts.step.gradients * share), facts.step.logits * last, kept)
    return _worse(facts, int(facts.weights * share), held, int(facts.trained * facts.optimiser * share), part)


def _sum(memory: dict[str, int]) -> int:
    return sum(memory.values())


# -- engines that divide ----------------------------------------------------------------------------------------------


def _deepspeed(facts: Facts, cards: int, name: str) -> dict[str, int]:
    """ZeRO: stage 1 divides the optimiser's state, 2 the gradients as well, 3 the weights too. Weights and gradients
    are in the type that is computed in; the optimiser has a copy of what is trained in float32."""
    stage, offload = int(name[4]), name.endswith("offload")
    weights = facts.weights * facts.compute // facts.stored
    gradients = facts.trained * facts.compute // (cards if stage > 1 else 1)
    optimiser = 0 if offload else facts.trained * MASTER // cards
    bucket = min(BUCKET, facts.trained) * facts.compute
    if stage == 3:
        weights = min(LIVE, facts.whole) * facts.compute + (0 if offload else weights // cards)
        bucket *= 2  # a copy of it is made, in the order of the ranks
    return dict(
        zip(
            PARTS,
            (weights, (0 if offload else gradients) + bucket, optimiser, facts.engine.activations, facts.engine.logits),
            strict=True,
        )
    )


def _fsdp(facts: Facts, cards: int) -> dict[str, int]:
    """FSDP2: everything divided; two layers, and what belongs to no layer, are whole while they are computed. Where
    the backward pass ends, gradients of what belongs to no layer are whole, its weights not any more."""
    shards, held = facts.weights // cards, facts.trained * facts.gradient // cards
    optimiser, layers = facts.trained * facts.optimiser // cards, 2 * facts.block * facts.compute
    root, share = facts.root * facts.compute, facts.trained / max(facts.whole, 1)
    reduced = int((facts.block + facts.root) * share) * 4
    moments = (
        (shards + layers + root, held, optimiser, facts.engine.activations, facts.engine.logits),
        (shards + layers, held + reduced, optimiser, 0, 0),
        (shards, held, optimiser + held * facts.foreach, 0, 0),
    )
    return dict(zip(PARTS, max(moments, key=sum), strict=True))


# -- words ------------------------------------------------------------------------------------------------------------


def table(found: list[Placement], card: int | None) -> list[str]:
    """Aligned columns; the cheapest that fits has an arrow."""
    best = cheapest(found, card)
    rows = [("", "placement", "cards", *PARTS, "per card", "fits", "asked for with")]
    for one in found:
        fits = {True: "yes", False: "no", None: "?"}[one.fits(card)]
        sizes = [amount(one.memory[part]) for part in PARTS]
        mark = "->" if one is best else ""
        rows.append((mark, one.name, str(one.devices), *sizes, amount(one.total), fits, one.flags or "(as it is)"))
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def as_json(found: list[Placement], card: int | None) -> list[dict[str, Any]]:
    """For programs."""
    best = cheapest(found, card)
    return [dc.asdict(one) | {"total": one.total, "fits": one.fits(card), "cheapest": one is best} for one in found]
