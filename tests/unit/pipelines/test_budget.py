"""What every placement divides, what it adds, and which is chosen, over numbers that are easy to check."""

from __future__ import annotations

import dataclasses as dc

import pytest

from swiftlike.models.placement import Spread
from swiftlike.models.rehearsal import Step
from swiftlike.pipelines.budget import (
    GIB,
    RESERVE,
    WASTE,
    Facts,
    Placement,
    as_json,
    cheapest,
    placements,
    table,
)

NUMBERS = 4 * GIB  # weights; in bfloat16 8 GiB
STEP, LAYER = Step(0, GIB, 9 * GIB), Step(0, 0, GIB)
FULL = Facts(
    **{"weights": 4 * NUMBERS, "whole": NUMBERS, "trained": NUMBERS, "gradient": 4, "optimiser": 8, "compute": 2},
    **{"stored": 4, "step": dc.replace(STEP, gradients=4 * NUMBERS), "engine": STEP, "layer": LAYER, "layers": 8},
    **{"block": NUMBERS // 10, "root": NUMBERS // 5, "foreach": False},
)
LORA = dc.replace(
    FULL, weights=2 * NUMBERS, trained=NUMBERS >> 10, stored=2, step=dc.replace(STEP, gradients=4 * GIB >> 8)
)
SPREAD = Spread({"embed": 0, **{f"layers.{i}": i // 4 for i in range(8)}, "head": 1}, {0: NUMBERS, 1: 3 * NUMBERS})


def memory(facts: Facts, name: str, cards: int = 4) -> dict[str, int]:
    return next(one for one in placements(facts, cards, SPREAD) if one.name == name).memory


def test_one_card_holds_everything() -> None:
    held = memory(FULL, "single")
    assert held == {
        **{"weights": 4 * NUMBERS, "gradients": 4 * NUMBERS, "optimiser": 8 * NUMBERS},
        **{"activations": 9 * GIB, "logits": GIB},
    }


def test_the_update_may_need_more_than_the_backward_pass() -> None:
    """The fused steps of the optimiser make a copy of what they update: 16 GiB, and 10 GiB of activations are gone."""
    held = memory(dc.replace(FULL, foreach=True), "single")
    assert (held["optimiser"], held["activations"], held["logits"]) == (12 * NUMBERS, 0, 0)
    assert memory(dc.replace(LORA, foreach=True), "single") == memory(LORA, "single")


def test_what_engines_divide() -> None:
    single, ddp = memory(FULL, "single"), memory(FULL, "ddp")
    assert ddp["gradients"] == 2 * single["gradients"]
    zero1, zero2, zero3 = (memory(FULL, name) for name in ("zero1", "zero2", "zero3"))
    assert zero1["weights"] == zero2["weights"] == 2 * NUMBERS  # DeepSpeed computes with half precision
    assert zero1["optimiser"] == zero2["optimiser"] == zero3["optimiser"] == 12 * NUMBERS // 4
    assert zero1["gradients"] - zero2["gradients"] == 2 * NUMBERS * 3 // 4
    assert zero3["weights"] == 2 * NUMBERS // 4 + 2 * 10**9
    assert memory(FULL, "zero2_offload")["optimiser"] == memory(FULL, "zero3_offload")["optimiser"] == 0
    assert memory(FULL, "zero3_offload")["weights"] < zero3["weights"]
    fsdp = memory(FULL, "fsdp full_shard")
    assert fsdp["weights"] == NUMBERS + 2 * (2 * (NUMBERS // 10) + NUMBERS // 5)
    assert fsdp["optimiser"] == 2 * NUMBERS
    for name in ("ddp", "zero1", "zero2", "zero3", "fsdp full_shard", "zero2_offload", "zero3_offload"):
        assert memory(FULL, name)["activations"] == 9 * GIB


def test_more_cards_need_less_of_each() -> None:
    for name in ("zero1", "zero2", "zero3", "fsdp full_shard"):
        few, many = (sum(memory(FULL, name, cards).values()) for cards in (2, 8))
        assert many < few


def test_lora_divides_only_weights() -> None:
    whole = sum(memory(LORA, "single").values())
    assert sum(memory(LORA, "zero2").values()) > 0.99 * whole
    assert sum(memory(LORA, "fsdp full_shard").values()) < 0.9 * whole


def test_the_fullest_card_of_a_map() -> None:
    """The second has three quarters of the weights, half of the layers and the head."""
    held = memory(LORA, "device map", 2)
    assert held["weights"] == 2 * NUMBERS * 3 // 4
    assert held["activations"] == 9 * GIB - 4 * GIB
    assert held["logits"] == GIB


@pytest.mark.parametrize(
    ("facts", "cards", "size", "wanted"),
    [
        (LORA, 4, 80, "single"),
        (LORA, 1, 80, "single"),
        (LORA, 4, 18, "fsdp full_shard"),
        (FULL, 8, 60, "zero1"),
        (FULL, 1, 60, "zero2_offload"),
        (FULL, 4, 10, None),
    ],
)
def test_the_cheapest_that_fits(facts: Facts, cards: int, size: int, wanted: str | None) -> None:
    best = cheapest(placements(facts, cards, SPREAD if cards > 1 else None), size * GIB)
    assert (best and best.name) == wanted


def test_room_is_left_beside_what_is_counted() -> None:
    one = Placement("single", 1, {"weights": 10 * GIB}, "")
    need = int(10 * GIB * (1 + WASTE)) + RESERVE
    assert (one.fits(need + 1), one.fits(need - 1), one.fits(None)) == (True, False, None)


def test_packed_weights_are_not_divided() -> None:
    found = [one.name for one in placements(LORA, 4, SPREAD, quantised=True)]
    assert found == ["single", "ddp", "device map"]


def test_words_and_json() -> None:
    found = placements(FULL, 8, None)
    lines = table(found, 60 * GIB)
    assert lines[0].split()[:3] == ["placement", "cards", "weights"]
    (chosen,) = [line for line in lines if line.startswith("->")]
    assert "zero1" in chosen
    assert chosen.endswith("NPROC_PER_NODE=8 --deepspeed zero1")
    rows = as_json(found, 60 * GIB)
    assert [row["name"] for row in rows if row["cheapest"]] == ["zero1"]
    assert {row["fits"] for row in as_json(found, None)} == {None}
