"""Data files as an enemy, or a broken disk, would write them."""

from __future__ import annotations

import copy
import csv
import dataclasses as dc
import functools
import gzip
import io
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import PIL.Image
import pyarrow as pa
from hypothesis import strategies as st
from pyarrow import parquet

from swiftlike.datasets_registry.columns import (
    CHOSEN,
    COMPLETIONS,
    DIALOGUES,
    LABELS,
    REJECTED,
    SCORES,
    SIDE,
    TEXTS,
)
from swiftlike.datasets_registry.shapes import UNREADABLE

COLUMNS = sorted(
    {*CHOSEN, *REJECTED, *TEXTS, *DIALOGUES, *COMPLETIONS, *SCORES, *SIDE, *LABELS, *UNREADABLE}
    | {"text", "query_id", "type", "summaries", "choice", "info", "golden", "sample_0", "hh_best", "", "\ud800", "a\0b"}
)
SPECIAL = ("fifo", "folder", "loop", "zero")  # what the disk holds under a picture's or a data file's name
Record = dict[str, Any]


@dc.dataclass(frozen=True)
class Hostile:
    """A file to load: its name, what it holds (or what it is instead of a file), and the picture beside it."""

    name: str
    data: bytes | str
    picture: bytes


# -- values -----------------------------------------------------------------------------------------------------------

PICTURES = ("p.png", "fifo", "zero", "folder", "loop", "/dev/zero", "/dev/stdin", "/proc/self/mem", "a\0b", "p" * 300)
URLS = (
    "~nobody-there/a.png",
    "file://[",
    "http://[",
    "HTTP://h/a.png",
    "file:///dev/zero",
    "ftp://h/a.png",
    "data:image/png;base64,AAAA",
    "data:,",
    "data:;base64,=",
)
WRITTEN: list[str] = [
    *("", "q", " \n", "\0", "\ud800", "\u202e\u2028", "e\u0301" * 3, "<image>" * 40, "<img></img>", "<img>a</img>"),
    *("\n\nHuman: a\n\nAssistant: b", "Human:", "\n\nAssistant:", "[{", "{}", "[]", "null", "true", "q<sep>a"),
    *(
        "[{[]: 1}]",
        "[{1, []}]",
        "[" * 3000,
        "(" * 3000,
        "-" * 3000 + "1",
        "[" + "9" * 5000 + "]",
        "[1e999]",
        "[\0]",
    ),
    *("<|im_end|>", "{{ 7 * 7 }}", "%s%n{0}", "'; DROP TABLE rows", "\x1b[2J", *PICTURES, *URLS),
]
TEXT = st.sampled_from(WRITTEN)
NUMBERS = [0, 1, -1, 2**63, 2**64, 10**400, -(10**400), 1e308, -0.0, float("nan"), float("inf"), 0.1]
NUMBER = st.sampled_from(NUMBERS)
SCALAR = st.none() | st.booleans() | NUMBER | TEXT
KEYS = st.sampled_from(
    [
        *("role", "content", "from", "value", "human", "assistant", "system", "type", "text", "image", "image_url"),
        *("loss", "bytes", "path", "url", "tool_calls", "function", "name", "arguments", "post", "title", "subreddit"),
    ]
)
ROLES = st.sampled_from(["user", "assistant", "system", "tool", "king", ""])
PART = st.fixed_dictionaries({"type": st.sampled_from(["text", "image", "audio"]), "text": TEXT, "image": TEXT})
CALL = st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": SCALAR, "arguments": SCALAR})})
MESSAGE = st.fixed_dictionaries(
    {"role": ROLES, "content": TEXT | st.lists(PART, max_size=2)},
    optional={"loss": SCALAR, "tool_calls": st.lists(CALL | SCALAR, max_size=2)},
)
VALUE = st.recursive(
    SCALAR | MESSAGE | st.lists(MESSAGE, max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)
GOOD: Record = {"query": "q", "response": "a", "rejected_response": "b"}
GOOD_ONES: list[Record] = [
    GOOD,
    GOOD | {"images": ["p.png"]},
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "label": True},
    {"prompt": "q", "completions": ["a", "b"], "rewards": [1.0, 0.0]},
    {"text": ["q<sep>a", "q<sep>b"], "scores": [1.0, 0.0]},
    {"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"}, "rejected": "b"},
    {"query": "q", "sample_0": "a", "sample_1": "b"},
    GOOD | {"margin": 1.0, "system": "s", "history": [["q", "a"]], "tools": [{"name": "f"}]},
    {
        "info": {"subreddit": "s", "title": "t", "post": "p"},
        "summaries": [{"text": "a"}, {"text": "b"}],
        "choice": 0,
    },
]
FORMS = st.sampled_from(GOOD_ONES)
NESTED: list[Any] = [
    *([], [[]], [None], {}, [{}], [[1, 2]], ["a", 1], {"role": "user"}, [{"role": [], "content": {}}], {"bytes": "x"}),
    *([{"role": "user", "content": [{"type": "image"}]}], [{"from": None}], [{"role": "assistant", "tool_calls": [1]}]),
    functools.reduce(lambda inner, _: [inner], range(400), "deep"),
    functools.reduce(lambda inner, _: {"content": inner}, range(400), "deep"),
    *([{"role": "assistant", "tool_calls": [{"name": 1, "arguments": "[" * 3000}]}], [{"role": "user", "loss": 1}]),
]


def every_value_everywhere() -> Iterator[Record]:
    """Every nasty value in every known column of a good record, and in every place of every known format."""
    values = [None, True, False, *NUMBERS, *WRITTEN, *NESTED]
    for value in values:
        yield from ({column: value} for column in COLUMNS)
        yield from (GOOD | {column: value} for column in COLUMNS)
        for form in GOOD_ONES:
            yield from _replaced(form, value)


def _replaced(holder: Any, value: Any) -> Iterator[Any]:
    """Copies of a record with the value in one of its places."""
    for key in holder if isinstance(holder, dict) else range(len(holder)):
        inner = [value, *(_replaced(holder[key], value) if isinstance(holder[key], dict | list) else ())]
        for one in inner:
            changed = holder.copy()
            changed[key] = one
            yield changed


@st.composite
def records(draw: Any) -> Record:
    """A record of a known format in which something is put wrong, at any depth, or one of any columns."""
    if draw(st.integers(0, 3)) == 0:
        return draw(st.dictionaries(st.sampled_from(COLUMNS), VALUE, max_size=5))
    record = copy.deepcopy(draw(FORMS))
    for _ in range(draw(st.integers(0, 2))):
        holder: Any = record
        key = draw(st.sampled_from(list(holder)))
        while isinstance(holder[key], dict | list) and holder[key] and draw(st.booleans()):
            holder = holder[key]
            key = draw(st.sampled_from(list(holder) if isinstance(holder, dict) else range(len(holder))))
        holder[key] = draw(VALUE)
    if draw(st.booleans()):
        record[draw(st.sampled_from(COLUMNS))] = draw(VALUE)
    return record


# -- files of records -------------------------------------------------------------------------------------------------

SPLICES = (
    *(b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\n", b"\r", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":"),
    *(b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b'"\\ud800"', b"'" * 9, b"\x1a"),
    *(b'{"query": 1, "query": 2}\n', b"\xe2\x80\xa8", b"x" * 3000, b"\r\n\r\n", b"//", b"null\n"),
)


def damaged(draw: Any, data: bytes) -> bytes:
    """The bytes cut, flipped, doubled or with something pushed in; sometimes as they are."""
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(len(data), 1)))
        how = draw(st.integers(0, 4))
        if how == 0:
            data = data[:at]
        elif how == 1 and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
        elif how == 2:
            data = data[:at] + draw(st.sampled_from(SPLICES)) + data[at:]
        elif how == 3:
            data = data[:at] + data[at + draw(st.integers(1, 40)) :]
        else:
            data += data[at:]
    return data


def _json_lines(found: list[Record]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in found).encode()


def _json_list(found: list[Record]) -> bytes:
    return json.dumps(found, indent=1).encode()


def _raw_lines(found: list[Record]) -> bytes:
    return "".join(json.dumps(one, ensure_ascii=False) + "\r\n" for one in found).encode("utf-8", "surrogatepass")


def _csv(found: list[Record]) -> bytes:
    text = io.StringIO(newline="")
    columns = sorted({key for record in found for key in record}) or ["query"]
    writer = csv.writer(text)
    writer.writerow(columns)
    for record in found:
        cells = [record.get(column, "") for column in columns]
        writer.writerow([cell if isinstance(cell, str) else json.dumps(cell) for cell in cells])
    return text.getvalue().encode("utf-8", "surrogatepass")


def _tsv(found: list[Record]) -> bytes:
    return _csv(found).replace(b",", b"\t")


WRITERS = st.sampled_from(
    [
        *((".jsonl", _json_lines), (".jsonl", _raw_lines), (".jsonl", _json_list), (".json", _json_list)),
        *((".json", _json_lines), (".csv", _csv), (".tsv", _tsv), ("", _json_lines), (".parquet", _csv)),
    ]
)
ENCODINGS = st.sampled_from(["utf-8"] * 6 + ["utf-16", "utf-32", "latin-1", "utf-7", "cp037"])


@st.composite
def text_files(draw: Any) -> tuple[str, bytes]:
    """(suffix, bytes) of JSON, JSON lines, CSV and TSV."""
    suffix, writer = draw(WRITERS)
    data = writer(draw(st.lists(records(), max_size=4)))
    data = data.decode("utf-8", "replace").encode(draw(ENCODINGS), "replace") if draw(st.booleans()) else data
    return suffix, damaged(draw, data)


# -- tables -----------------------------------------------------------------------------------------------------------


def _not_utf8(count: int) -> pa.Array:
    cells = pa.array([b"\xff\xfe"] * count, pa.binary())
    return pa.StringArray.from_buffers(count, cells.buffers()[1], cells.buffers()[2])


CELLS: list[Any] = [  # what makes a column of so many rows
    lambda n: pa.array(["q"] * n),
    lambda n: pa.array([None] * n),
    lambda n: pa.array([b"\xff\0"] * n),
    lambda n: pa.array([2**62] * n, pa.timestamp("s")),
    lambda n: pa.array([1] * n, pa.timestamp("ns")),
    lambda n: pa.array([1] * n, pa.timestamp("us", "Mars/Olympus")),
    lambda n: pa.array([2**31 - 1] * n, pa.date32()),
    lambda n: pa.array([2**62] * n, pa.duration("us")),
    lambda n: pa.array([[("a", 1), ("a", 2)]] * n, pa.map_(pa.string(), pa.int64())),
    lambda n: pa.array([[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]] * n),
    lambda n: pa.array([["a", "b"]] * n),
    lambda n: pa.array([[1.0, float("nan")]] * n),
    lambda n: pa.array([{"bytes": b"\x89PNG\r\n", "path": "p.png"}] * n),
    lambda n: pa.array(["q"] * n).dictionary_encode(),
    lambda n: pa.array([True] * n),
    _not_utf8,
]


@st.composite
def tables(draw: Any) -> tuple[str, bytes]:
    """(suffix, bytes) of parquet and arrow files, of any types in the known columns."""
    rows = draw(st.integers(0, 3))
    names = draw(st.lists(st.sampled_from([name for name in COLUMNS if name != "\ud800"]), min_size=1, max_size=4))
    columns = [draw(st.sampled_from(CELLS))(rows) for _ in names]
    if draw(st.booleans()):
        names = ["query", "response", "rejected_response", *names]
        columns = [pa.array([cell] * rows, pa.string()) for cell in "qab"] + columns
    table = pa.Table.from_arrays(columns, names=names)
    suffix = draw(st.sampled_from([".parquet", ".arrow", ".arrow", ""]))
    sink = io.BytesIO()
    if suffix == ".arrow":
        opened = draw(st.sampled_from([pa.ipc.new_file, pa.ipc.new_stream]))
        with opened(sink, table.schema) as writer:
            writer.write_table(table)
    else:
        try:
            parquet.write_table(table, sink)
        except pa.ArrowException:  # a type that parquet lacks
            sink.write(b"PAR1")
    return suffix, damaged(draw, sink.getvalue())


# -- pictures ---------------------------------------------------------------------------------------------------------


def _picture(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    PIL.Image.frombytes("RGB", (24, 16), bytes(range(256)) * 4 + bytes(128)).save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, pixels: bytes = b"") -> bytes:
    """A PNG whose header says so, whatever stands behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


SAMPLES = st.sampled_from(
    [
        *(_picture(kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO")),
        _picture("TIFF", compression="tiff_lzw"),
        *(png(100_000, 100_000), png(30_000, 2000), png(0, 0), png(1, 20_000), png(7000, 7000, b"\0" * 1000)),
        *(b"", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"<svg/>", b"\0" * 5000),
    ]
)


# -- all together -----------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "a b", "#1", "a:b", "\u202e", "\udcff", "train", "%s", "x" * 200])


@st.composite
def hostile_files(draw: Any) -> Hostile:
    """A data file that may be anything, and a picture that may be anything beside it."""
    picture = draw(SAMPLES)
    picture = damaged(draw, picture) if draw(st.booleans()) else picture
    name = draw(NAMES) if draw(st.integers(0, 7)) == 0 else "a"
    if draw(st.integers(0, 40)) == 0:
        return Hostile(name + draw(st.sampled_from([".jsonl", ".csv", ".gz"])), draw(st.sampled_from(SPECIAL)), picture)
    suffix, data = draw(st.one_of(text_files(), text_files(), tables()))
    if draw(st.integers(0, 5)) == 0:
        suffix, data = suffix + ".gz", damaged(draw, gzip.compress(data, mtime=0))
    return Hostile(name + suffix, data, picture)
