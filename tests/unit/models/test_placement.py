"""Which cards a process gets and how a model is spread over them, as ms-swift's table has it."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import families
import pytest
import torch

from swiftlike.core.devices import own_devices
from swiftlike.core.errors import UserError
from swiftlike.models.placement import device_map, local_processes

FREE = {0: 80, 1: 40, 2: 80, 3: 80}  # GiB free


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Pretend to have cards: only their number and free memory are asked for."""

    def make(cards: int, processes: int = 1, rank: int = 0) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda d: (FREE[d] << 30, 80 << 30))
        everyone = [[FREE[d] * 9 * 2**30 // 10 for d in range(r, cards, processes)] for r in range(processes)]
        monkeypatch.setattr("accelerate.utils.gather_object", lambda mine: everyone if mine[0] in everyone else mine)
        monkeypatch.delenv("ACCELERATE_BYPASS_DEVICE_MAP", raising=False)
        for name, value in (("LOCAL_RANK", rank), ("LOCAL_WORLD_SIZE", processes)):
            monkeypatch.setenv(name, str(value)) if processes > 1 else monkeypatch.delenv(name, raising=False)

    return make


@pytest.mark.parametrize(
    ("cards", "processes", "wanted"),
    [
        (0, 1, [[]]),
        (0, 4, [[]] * 4),
        (1, 1, [[0]]),
        (4, 1, [[0, 1, 2, 3]]),
        (2, 2, [[0], [1]]),
        (4, 2, [[0, 2], [1, 3]]),
        (6, 3, [[0, 3], [1, 4], [2, 5]]),
    ],
)
def test_cards_of_every_process(cards: int, processes: int, wanted: list[list[int]]) -> None:
    assert [own_devices(cards, processes, r) for r in range(processes)] == wanted


@pytest.mark.parametrize(("cards", "processes"), [(3, 2), (1, 2), (4, 3), (4, 8)])
def test_cards_that_cannot_be_shared(cards: int, processes: int) -> None:
    with pytest.raises(UserError, match=f"{cards} visible cards cannot be shared evenly by NPROC_PER_NODE={processes}"):
        own_devices(cards, processes, 0)


def placed(requested: str | None = None, sharded: bool = False, **max_memory: str) -> dict[str, Any]:
    asked = SimpleNamespace(device_map=requested, max_memory=max_memory, quant_bits=0)
    return device_map(asked, families.config("llama"), torch.float32, sharded)


@pytest.mark.parametrize(("cards", "processes"), [(0, 1), (0, 2), (1, 1), (2, 2)])
@pytest.mark.parametrize("requested", [None, "auto"])
def test_one_card_or_none_needs_no_map(machine, cards: int, processes: int, requested: str | None) -> None:
    machine(cards, processes)
    assert placed(requested) == {}


@pytest.mark.parametrize("requested", [None, "auto", "balanced"])
def test_one_process_takes_all_cards(machine, requested: str | None) -> None:
    machine(4)
    found = placed(requested)["device_map"]
    assert set(found.values()) <= {0, 1, 2, 3}
    assert len(set(found.values())) > 1
    assert "ACCELERATE_BYPASS_DEVICE_MAP" not in os.environ


def test_every_rank_makes_the_same_map_over_its_own_cards(machine) -> None:
    """Card 1 has half as much free as the others."""
    maps = []
    for rank in (0, 1):
        machine(4, processes=2, rank=rank)
        found = placed()["device_map"]
        assert set(found.values()) == {rank, rank + 2}
        assert os.environ["ACCELERATE_BYPASS_DEVICE_MAP"] == "true"
        maps.append({name: card - rank for name, card in found.items()})
    assert maps[0] == maps[1]


def test_sharded_engines_place_parameters_themselves(machine) -> None:
    machine(4)
    assert placed("auto", True, **{"0": "10GiB"}) == {}


def test_memory_limits(machine) -> None:
    machine(2)
    assert set(placed(**{"0": "0GiB", "1": "20GiB", "cpu": "1GiB"})["device_map"].values()) == {1}
    machine(1)
    with pytest.raises(UserError, match=r"and may take 0\.0 MiB"):
        placed(**{"0": "20KB"})
    with pytest.raises(UserError, match="--max_memory"):
        placed(**{"0": "much"})


def test_a_map_of_the_users_own(machine, tmp_path: Path) -> None:
    machine(2)
    path = tmp_path / "map.json"
    path.write_text('{"model": 0, "lm_head": 1}')
    for requested in (str(path), path.read_text()):
        assert placed(requested) == {"device_map": {"model": 0, "lm_head": 1}}
    assert placed("cpu") == {"device_map": {"": "cpu"}}
    assert placed("cuda:1") == {"device_map": {"": "cuda:1"}}


def test_local_processes(machine) -> None:
    machine(4)
    assert local_processes() == (0, 1)
    machine(4, processes=2, rank=1)
    assert local_processes() == (1, 2)
