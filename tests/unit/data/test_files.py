from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from swiftlike.core.errors import UserError
from swiftlike.data import files
from swiftlike.data.files import files_of, read
from swiftlike.datasets_registry.card import BadRow

ROWS = [{"query": "one", "n": 1}, {"query": "zwei\nzeilen", "n": 2}, {"query": "\u2028 drei", "n": 3}]


def lines_of(path: Path) -> list[tuple[Any, str]]:
    """Records (bad ones as their text) with what stands behind the path in their origin."""
    found = []
    for record, origin in read(path):
        assert origin.startswith(str(path))
        found.append((str(record) if isinstance(record, BadRow) else record, origin.removeprefix(str(path))))
    return found


def write(path: Path, data: str | bytes) -> Path:
    data = data.encode() if isinstance(data, str) else data
    if path.suffix == ".gz":
        data = gzip.compress(data)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.data"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in ROWS)
    found = lines_of(write(tmp_path / name, b"\xef\xbb\xbf" + ("\n" + text).encode() if name == "a.jsonl" else text))
    first = 2 if name == "a.jsonl" else 1
    assert found == [(row, f":{number}") for number, row in enumerate(ROWS, start=first)]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz", "a.unknown"])
def test_json_lists_know_the_line_where_each_element_starts(tmp_path: Path, name: str) -> None:
    found = lines_of(write(tmp_path / name, json.dumps(ROWS, indent=2)))
    assert found == [(ROWS[0], ":2"), (ROWS[1], ":6"), (ROWS[2], ":10")]
    assert lines_of(write(tmp_path / name, json.dumps(ROWS))) == [(row, ":1") for row in ROWS]


def test_objects_of_several_lines_one_after_another(tmp_path: Path) -> None:
    text = "\n".join(json.dumps(row, indent=1) for row in ROWS)
    assert lines_of(write(tmp_path / "a.json", text)) == [(ROWS[0], ":1"), (ROWS[1], ":5"), (ROWS[2], ":9")]


def test_broken_lines_are_told_and_passed_over(tmp_path: Path) -> None:
    deep = "[" * 100_000
    bad = [b'{"a": 1', b"[1, 2]", b'{"a": "\xff"}', b'{"a": "\0"}', b"3", b'{"a": ' + deep.encode(), b'{"good": true}']
    found = lines_of(write(tmp_path / "a.jsonl", b'{"good": true}\n' + b"\n".join(bad)))
    assert [where for _, where in found] == [f":{number}" for number in range(1, 9)]
    said = [record for record, _ in found]
    assert (said[0], said[-1]) == ({"good": True}, {"good": True})
    kinds = (
        "not JSON",
        "not a JSON object",
        "not UTF-8: byte 0xff at column 8",
        "NUL bytes",
        "not a JSON object",
        "not JSON",
    )
    for text, kind in zip(said[1:-1], kinds, strict=True):
        assert text.startswith(kind)


def test_a_line_beyond_the_limit_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_LINE", 1000)
    path = write(tmp_path / "a.jsonl", '{"a": "' + "x" * 5_000_000 + '"}\n{"a": 1}\n')
    assert [(str(record)[:16], where) for record, where in lines_of(path)] == [
        ("line is too long", ":1"),
        ("{'a': 1}", ":2"),
    ]


@pytest.mark.parametrize(
    ("text", "good", "said", "line"),
    [
        ('[{"a": 1},\n {"a": 2},\n {"a": }\n]', 2, "not JSON: Expecting value on line 3", 3),
        ('[{"a": 1},\n {"a": 2}', 2, "the list is never closed", 2),
        ('[{"a": 1},\n {"a":\n\n 2', 1, "not JSON", 2),
        ('[{"a": 1},\n 5]', 1, "not a JSON object", 2),
    ],
)
def test_broken_lists_keep_what_came_before(tmp_path: Path, text: str, good: int, said: str, line: int) -> None:
    found = lines_of(write(tmp_path / "a.json", text))
    assert len(found) == good + 1
    assert said in found[-1][0]
    assert found[-1][1] == f":{line}"


def test_csv_counts_physical_lines_and_reads_lists(tmp_path: Path) -> None:
    text = 'query,images,label\r\n"two\nlines","[""a.png""]",true\nplain,,False\nshort\n007,"{",maybe\n'
    assert lines_of(write(tmp_path / "a.csv", text)) == [
        ({"query": "two\nlines", "images": ["a.png"], "label": True}, ":2"),
        ({"query": "plain", "images": "", "label": False}, ":4"),
        ("wrong number of cells: 1 cells under 3 columns", ":5"),
        ({"query": "007", "images": "{", "label": "maybe"}, ":6"),
    ]
    found = lines_of(write(tmp_path / "b.tsv.gz", "q\ta\n1\t" + "x" * 200_000 + "\n"))
    assert found == [({"q": "1", "a": "x" * 200_000}, ":2")]
    assert "not UTF-8: byte 0xff" in lines_of(write(tmp_path / "c.csv", b"q\na\xff\n"))[0][0]
    with pytest.raises(UserError, match="same name: 'q'"):
        lines_of(write(tmp_path / "d.csv", "q,q\n1,2\n"))
    assert lines_of(write(tmp_path / "e.csv", "")) == []


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "stream.arrow", "a.parquet.gz", "a.bin"])
def test_columnar_files_count_rows(tmp_path: Path, name: str) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.Table.from_pylist(
        [{"query": "a", "image": {"bytes": b"\1", "path": None}}, {"query": "b", "image": None}]
    )
    sink = pa.BufferOutputStream()
    if "parquet" in name or name == "a.bin":
        parquet.write_table(table, sink)
    else:
        make = pa.ipc.new_stream if name.startswith("stream") else pa.ipc.new_file
        with make(sink, table.schema) as writer:
            writer.write_table(table)
    data = sink.getvalue().to_pybytes()
    assert lines_of(write(tmp_path / name, data)) == [
        ({"query": "a", "image": {"bytes": b"\1", "path": None}}, ":1"),
        ({"query": "b", "image": None}, ":2"),
    ]
    with pytest.raises(UserError, match=r"not a whole|no known type"):
        lines_of(write(tmp_path / name, data[: len(data) // 2] if name != "a.bin" else b"nothing known"))


def test_a_cut_off_gz_gives_what_is_there_and_says_so(tmp_path: Path) -> None:
    data = gzip.compress("".join(json.dumps({"n": n}) + "\n" for n in range(20_000)).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(data[: len(data) // 2])
    found = lines_of(tmp_path / "a.jsonl.gz")
    assert found[0] == ({"n": 0}, ":1")
    assert "compressed file is broken" in found[-1][0]
    (tmp_path / "b.jsonl.gz").write_bytes(b"not gzip at all")
    assert "compressed file is broken" in lines_of(tmp_path / "b.jsonl.gz")[0][0]


def test_utf16_is_refused_with_the_remedy(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.csv"):
        with pytest.raises(UserError, match="iconv"):
            lines_of(write(tmp_path / name, '{"a": 1}'.encode("utf-16")))


def test_folders_take_data_files_of_the_split(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.csv", ".hidden.jsonl", "_tmp.jsonl", "dataset_info.json", "README.md", "deep/c.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in files_of(tmp_path)] == ["a.csv", "b.jsonl", "c.parquet"]
    split = tmp_path / "split"
    for name in ("data/train-00001.jsonl", "data/train-00000.jsonl", "data/test-00000.jsonl"):
        (split / name).parent.mkdir(parents=True, exist_ok=True)
        (split / name).touch()
    assert [path.name for path in files_of(split)] == ["train-00000.jsonl", "train-00001.jsonl"]
    assert [path.name for path in files_of(split, "test")] == ["test-00000.jsonl"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no data files"):
        files_of(tmp_path / "empty")
