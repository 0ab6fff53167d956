"""Which cards a process gets and how a model is spread over them, as ms-swift's table has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from swiftlike.core.devices import own_devices
from swiftlike.core.errors import UserError
from swiftlike.models.placement import device_map, local_processes

FREE = {0: 80, 1: 40, 2: 80, 3: 80}  # GiB free


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Pretend to have cards: only their number and free memory are asked for."""

    def make(cards: int, processes: int = 1, rank: int = 0) -> None:
        import torch

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


@pytest.mark.parametrize(("cards", "processes"), [(0, 1), (0, 2), (1, 1), (2, 2)])
def test_one_card_or_none_needs_no_map(machine, cards: int, processes: int) -> None:
    machine(cards, processes)
    assert device_map(None, {}, sharded=False) == {}


def test_one_process_takes_all_cards(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    machine(4)
    placed = device_map(None, {}, sharded=False)
    assert placed["device_map"] == "auto"
    assert set(placed["max_memory"]) == {0, 1, 2, 3}
    assert all(limit <= FREE[d] << 30 for d, limit in placed["max_memory"].items())
    assert "ACCELERATE_BYPASS_DEVICE_MAP" not in os.environ


@pytest.mark.parametrize("rank", [0, 1])
def test_fewer_processes_than_cards(machine, rank: int) -> None:
    """The other process's cards get nothing, and every rank makes the same map."""
    import os

    machine(4, processes=2, rank=rank)
    limits = device_map(None, {}, sharded=False)["max_memory"]
    assert {d for d, limit in limits.items() if limit} == {rank, rank + 2}
    assert os.environ["ACCELERATE_BYPASS_DEVICE_MAP"] == "true"


def test_every_rank_makes_the_same_map(machine) -> None:
    shares = []
    for rank in (0, 1):
        machine(4, processes=2, rank=rank)
        limits = device_map(None, {}, sharded=False)["max_memory"]
        shares.append([limits[d] for d in (rank, rank + 2)])
    assert shares[0] == shares[1]  # card 1 has half as much free as the others


def test_sharded_engines_place_parameters_themselves(machine) -> None:
    machine(4)
    assert device_map("auto", {"0": "10GiB"}, sharded=True) == {}


def test_memory_limits(machine) -> None:
    machine(2)
    assert device_map(None, {"0": "10GiB", "1": "20GiB"}, sharded=False) == {
        "device_map": "auto",
        "max_memory": {0: "10GiB", 1: "20GiB"},
    }
    assert device_map("auto", {"0": "1GiB", "cpu": "9GiB"}, False)["max_memory"] == {0: "1GiB", "cpu": "9GiB"}


def test_a_map_of_the_users_own(machine, tmp_path: Path) -> None:
    machine(2)
    path = tmp_path / "map.json"
    path.write_text('{"model": 0, "lm_head": 1}')
    wanted = {"device_map": {"model": 0, "lm_head": 1}}
    assert device_map(str(path), {}, sharded=False) == wanted
    assert device_map('{"model": 0, "lm_head": 1}', {}, sharded=False) == wanted
    assert device_map("balanced", {}, sharded=False) == {"device_map": "balanced"}


def test_local_processes(machine) -> None:
    machine(4)
    assert local_processes() == (0, 1)
    machine(4, processes=2, rank=1)
    assert local_processes() == (1, 2)
