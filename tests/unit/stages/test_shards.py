"""Results in pieces."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, strategies

from swiftlike.core.errors import UserError
from swiftlike.stages.shards import chunk, find_shards, is_complete, shard_name, write_shard


@given(strategies.lists(strategies.integers()), strategies.integers(1, 9))
def test_pieces_are_contiguous_and_even(items: list[int], count: int) -> None:
    pieces = chunk(items, count)
    assert [item for piece in pieces for item in piece] == items
    lengths = [len(piece) for piece in pieces]
    assert len(lengths) == count
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] - lengths[-1] <= 1


def test_no_pieces() -> None:
    with pytest.raises(ValueError, match="at least one"):
        chunk([1], 0)


def test_names() -> None:
    assert shard_name(2, 16) == "shard-00002-of-00016.jsonl"
    with pytest.raises(ValueError, match="no shard 2 of 2"):
        shard_name(2, 2)


def test_shards_are_found_in_order(tmp_path: Path) -> None:
    paths = {index: write_shard(tmp_path, index, 11, [{"i": index}]) for index in (10, *range(10))}
    assert is_complete(tmp_path)
    assert find_shards(tmp_path) == [paths[index] for index in range(11)]
    assert [json.loads(path.read_text()) for path in find_shards(tmp_path)] == [{"i": index} for index in range(11)]


def test_missing_shards_are_named(tmp_path: Path) -> None:
    for index in (0, 3):
        write_shard(tmp_path, index, 4, [])
    assert not is_complete(tmp_path)
    with pytest.raises(UserError, match=r"is incomplete\n.*there: 0, 3 of 4\n.*missing: 1, 2$"):
        find_shards(tmp_path)


def test_shards_of_two_runs_are_told_apart(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, 1, [])
    write_shard(tmp_path, 1, 2, [])
    for ask in (find_shards, is_complete):
        with pytest.raises(UserError, match=r"2 different runs\n  - of 1: 0\n  - of 2: 1\n"):
            ask(tmp_path)


@pytest.mark.parametrize("there", [(), ("shard-0", "notes.txt")])
def test_nothing_there(tmp_path: Path, there: tuple[str, ...]) -> None:
    for name in there:
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="holds no shards"):
        find_shards(tmp_path)
    assert not is_complete(tmp_path / "nowhere")
