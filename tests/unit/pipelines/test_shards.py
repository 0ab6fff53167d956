"""Pieces of a stage: where they are kept, when they are put together, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from swiftlike.core.errors import UserError
from swiftlike.pipelines.shards import Piece

ROWS = [{"i": number, "text": "línea\u2028"} for number in range(7)]


def pieces(place: Path, count: int, **decisive: Any) -> list[Piece]:
    return [
        Piece(index, count, place / "out.jsonl", {"seed": 1, "shard": index, "num_shards": count} | decisive)
        for index in range(count)
    ]


def written(place: Path, count: int) -> list[Piece]:
    found = pieces(place, count)
    for piece in found:
        piece.write(piece.of(ROWS))
    return found


@pytest.mark.parametrize("count", [2, 3, 7, 9])
def test_the_whole_is_there_with_the_last_piece_in_whatever_order(tmp_path: Path, count: int) -> None:
    for piece in reversed(pieces(tmp_path, count)):
        assert piece.all(len(ROWS)) is None
        piece.write(piece.of(ROWS))
    for piece in pieces(tmp_path, count):
        assert list(piece.all(len(ROWS))) == list(piece.all()) == ROWS
        assert piece.is_there(overwrite=False)
        assert not piece.is_there(overwrite=True)


def test_a_piece_that_is_the_whole_has_no_folder(tmp_path: Path) -> None:
    (piece,) = pieces(tmp_path, 1)
    assert piece.alone
    assert piece.place == tmp_path / "out.jsonl"
    assert list(piece.of(ROWS)) == ROWS
    piece.place.touch()
    assert not piece.is_there(overwrite=False)  # whoever opens the output refuses it
    assert not piece.is_done(overwrite=False)


def test_only_pieces_of_one_run_share_a_folder(tmp_path: Path) -> None:
    first, second = pieces(tmp_path, 2)
    assert first.folder == second.folder
    others = [*pieces(tmp_path, 3), *pieces(tmp_path, 2, seed=2)]
    assert first.folder not in {one.folder for one in others}
    assert first.settings != second.settings
    given, derived = (Piece(1, 2, first.output, {"shard": one, "num_shards": one}) for one in (2, None))
    assert given.settings == derived.settings  # by flags or by the environment


def test_pieces_of_other_numbers_are_named(tmp_path: Path) -> None:
    first, _ = written(tmp_path, 2)
    (first.folder / "shard-00001-of-00003.jsonl").touch()
    with pytest.raises(UserError, match=r"of 2: 0, 1\n  - of 3: 1"):
        first.all()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:-2], r":2: not JSON"),
        (lambda data: data.splitlines(keepends=True)[0], r":1: it ends here, after 1 of 2 rows"),
        (lambda data: b"", r":0: it ends here, after 0 of 2 rows"),
        (lambda data: data + b'{"i": 9}\n', r":3: it ends here, after 3 of 2 rows"),
        (lambda data: data.replace(b"\xc3", b"\xff"), r":1: not UTF-8"),
        (lambda data: data[:10] + b"\0" * 5 + data[10:], r":1: NUL bytes"),
        (lambda data: b"7\n" + data, r":1: not a JSON object"),
    ],
)
def test_a_damaged_piece_is_named_with_its_line(tmp_path: Path, damage: Any, reason: str) -> None:
    found = written(tmp_path, 3)
    broken = found[2].place
    broken.write_bytes(damage(broken.read_bytes()))
    with pytest.raises(UserError, match=rf"{broken.name}{reason}") as refused:
        list(found[0].all(len(ROWS)))
    assert f"remove {broken.name} and run that shard again" in str(refused.value)


def test_a_whole_that_is_there_is_taken_only_from_the_same_run(tmp_path: Path) -> None:
    first, second = written(tmp_path, 2)
    assert not first.is_done(overwrite=False)
    first.output.write_text("".join(json.dumps(row) for row in first.all()))
    assert first.is_done(overwrite=False)
    assert second.is_done(overwrite=False)
    assert not first.is_done(overwrite=True)
    with pytest.raises(UserError, match="exists already"):
        pieces(tmp_path, 2, seed=2)[0].is_done(overwrite=False)
