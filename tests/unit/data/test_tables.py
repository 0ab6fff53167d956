"""Records asked for one by one are those of reading files from start to end."""

from __future__ import annotations

import gzip
import json
import multiprocessing
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from swiftlike.core.errors import UserError
from swiftlike.data import files
from swiftlike.data.files import read
from swiftlike.data.tables import Joined, Lines, joined, table_of
from swiftlike.datasets_registry.card import BadRow

ROWS = [json.dumps({"query": word, "n": n}, ensure_ascii=False) for n, word in enumerate(["one", "zwei\u2028", "drei"])]
BOM = b"\xef\xbb\xbf"
TEXTS = {
    "plain": "\n".join(ROWS).encode(),
    "last line ends": "".join(f"{row}\n" for row in ROWS).encode(),
    "mark in front": BOM + "\r\n".join(ROWS).encode(),
    "blank lines": ("\n \t\n" + "\n\r\n\n".join(ROWS)).encode(),
    "mark, then blank": BOM + b"\n" + ROWS[0].encode(),
    "broken lines": b'{"a": 1\n\n[1]\n{"a": "\xff"}\n{"a": "\x00"}\n3\n' + ROWS[0].encode(),
    "a list": f"[{', '.join(ROWS)}]".encode(),
    "a list of many lines": (" [\n" + ",\n".join(ROWS) + "\n]").encode(),
    "several lines each": json.dumps({"a": 1, "b": {}}, indent=1).encode() * 2,
    "too long": b'{"a": "' + b"x" * 500 + b'"}\n' + ROWS[0].encode() + b"\n" + BOM + b"y" * 500,
    "nothing": b"",
    "only blanks": b"\n\n",
}


def shown(records: Iterable[object]) -> list[tuple[str, str]]:
    return [(f"{type(record).__name__} {record}", origin) for record, origin in records]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.unknown", "a.jsonl.gz"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_same_records(text: bytes, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_LINE", 400)
    path = tmp_path / name
    path.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    wanted = outcome(lambda: shown(read(path)))
    assert outcome(lambda: shown(table_of(path, "train"))) == wanted
    if not isinstance(wanted, str):
        table = table_of(path, "train")
        assert shown(table[place] for place in reversed(range(len(table)))) == wanted[::-1]


def outcome(read: Callable[[], list[tuple[str, str]]]) -> list[tuple[str, str]] | str:
    try:
        return read()
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("name", ["none.jsonl", "utf16.jsonl", "folder.jsonl"])
def test_errors_are_those_of_reading(name: str, tmp_path: Path) -> None:
    (tmp_path / "utf16.jsonl").write_bytes("{}".encode("utf-16"))
    (tmp_path / "folder.jsonl").mkdir()
    wanted = outcome(lambda: shown(read(tmp_path / name)))
    assert isinstance(wanted, str)
    assert outcome(lambda: shown(table_of(tmp_path / name, "train"))) == wanted


def test_lines_stay_in_their_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(ROWS))
    assert isinstance(table_of(tmp_path / "a.jsonl", "train"), Lines)


def test_a_folder_is_one_table(tmp_path: Path) -> None:
    for name, rows in (("a.jsonl", ROWS), ("b.jsonl", []), ("c.jsonl", ROWS[:1])):
        (tmp_path / name).write_text("\n".join(rows))
    table = table_of(tmp_path, "train")
    assert isinstance(table, Joined)
    assert shown(table) == shown(read(tmp_path)) != []
    assert len(table) == 4
    for place in (4, -1):
        with pytest.raises(IndexError):
            table[place]
    assert list(joined([table])) == list(table)


def test_processes_read_one_file_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"n": n, "text": "x" * (n % 50)}) + "\n" for n in range(2000)))
    table = table_of(path, "train")
    with multiprocessing.get_context("fork").Pool(3, _keep, (table,)) as pool:
        assert pool.map(_number, range(2000), chunksize=1) == list(range(2000))


_table: list[Lines] = []


def _keep(table: Lines) -> None:
    _table[:] = [table]


def _number(place: int) -> int:
    record, _ = _table[0][place]
    assert not isinstance(record, BadRow)
    return int(record["n"])
