"""Records out of files and folders, each with where it stands: `file:line`, lines counted from 1 as an editor does.

A record that cannot be read comes as the BadRow that says why, so that the reader goes on behind it.
"""

from __future__ import annotations

import csv
import functools
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from swiftlike.core.errors import UserError
from swiftlike.data.columnar import arrow_records, parquet_records
from swiftlike.data.unpacked import Unpacked
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.syntax import DATA_SUFFIXES

Record = dict[str, Any] | BadRow
Records = Iterator[tuple[Record, str]]

MAX_LINE = 256 << 20  # bytes of one JSON line; pictures as base64 fit, a broken file without line ends does not
_NOT_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "args.json")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(r"[ \t\r\n]*")
_HELD_OUT = ("test", "valid", "validation", "eval", "dev")


def read(path: Path, split: str = "train") -> Records:
    """Records of a file, or of every data file of a folder (sorted). UserError when there is nothing to read."""
    for file in files_of(path, split):
        yield from read_file(file)


def files_of(path: Path, split: str = "train") -> list[Path]:
    """The data files of a folder, hidden ones and descriptions left out; a file stands for itself.

    Where file names speak of splits (`train-00000.parquet` beside `test-...`), only those of `split` are taken.
    """
    if not path.is_dir():
        return [path]
    found: list[Path] = []
    for folder, inner, names in os.walk(path):
        inner[:] = sorted(name for name in inner if not name.startswith((".", "_")))
        here = sorted(name for name in names if _is_data(name))
        found.extend(Path(folder) / name for name in here)
    if not found:
        raise UserError(f"no data files in the folder {path}", hint=f"known are {', '.join(DATA_SUFFIXES)}")
    words = {file: _words(file, path) for file in found}
    wanted = [file for file in found if split in words[file]]
    held_out = [file for file in found if words[file] & {*_HELD_OUT, "train"} - {split}]
    return wanted if wanted and held_out else found


def _is_data(name: str) -> bool:
    return name.lower().endswith(DATA_SUFFIXES) and not name.startswith((".", "_")) and name not in _NOT_DATA


def _words(file: Path, root: Path) -> set[str]:
    text = str(file.relative_to(root)).lower()
    return set("".join(letter if letter.isalpha() else " " for letter in text).split())


def read_file(path: Path) -> Records:
    """Records of one file, by its suffix; a file without a known one is looked into."""
    name = path.name.lower()
    packed = name.endswith(".gz")
    suffix = Path(name.removesuffix(".gz")).suffix
    reader = _READERS.get(suffix)
    try:
        with _open(path, packed) as file:
            if reader is None:
                reader = _sniff(file, path)
            yield from reader(file, str(path))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        yield BadRow("compressed file is broken", str(error)), str(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def begins_with_lines(path: Path) -> bool:
    """Whether a file that is not packed is JSON lines, as `read_file` would take it."""
    name = path.name.lower()
    suffix = Path(name).suffix
    if name.endswith(".gz") or _READERS.get(suffix, _json) not in (_json, _jsonl) or not os.access(path, os.R_OK):
        return False
    with _open(path, False) as file:
        if suffix != ".jsonl":
            start = file.peek(64)[:64].removeprefix(_BOM).lstrip()  # type: ignore[attr-defined]
            return start[:1] == b"{" and _first_line_is_whole(file)
        first = file.readline(MAX_LINE)
    return not _is_list(first.removeprefix(_BOM)) and not first.startswith(_UTF16)


def _open(path: Path, packed: bool) -> IO[bytes]:
    if not path.is_file():
        what = "not a file: it is a folder, a pipe or a device" if path.exists() else "no such file"
        raise UserError(f"{what}: {path}")
    return io.BufferedReader(Unpacked(path), 1 << 17) if packed else path.open("rb")


def _sniff(file: IO[bytes], path: Path) -> Callable[[IO[bytes], str], Records]:
    start = file.peek(64)[:64].removeprefix(b"\xef\xbb\xbf").lstrip()  # type: ignore[attr-defined]
    if start[:1] in (b"{", b"["):
        return _json
    if start[:4] == b"PAR1":
        return parquet_records
    raise UserError(f"{path} is of no known type", hint=f"known are {', '.join(DATA_SUFFIXES)}")


def _refuse_utf16(start: bytes, name: str) -> None:
    if start.startswith(_UTF16):
        raise UserError(f"{name} is UTF-16 text", hint=f"convert it: iconv -f UTF-16 -t UTF-8 {name}")


def _jsonl(file: IO[bytes], name: str) -> Records:
    for number, _, line in lines_of(file, name):
        if number == 1 and _is_list(line):  # a list in a file called .jsonl
            file.seek(0)
            yield from _json(file, name)
            return
        yield line_record(line), f"{name}:{number}"


def lines_of(file: IO[bytes], name: str) -> Iterator[tuple[int, int, bytes]]:
    """(number, place in the file, text) of every line that is not blank; of one that is too long only its start."""
    number = place = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        start, place = place, place + len(line)
        if number == 1:
            _refuse_utf16(line, name)
            start += 3 * line.startswith(_BOM)
            line = line.removeprefix(_BOM)
        if len(line) > MAX_LINE:
            _skip_line(file)
            place = file.tell()
            yield number, start, line
        elif line.strip(b" \t\r\n"):
            yield number, start, line


def _is_list(line: bytes) -> bool:
    return line.lstrip().startswith(b"[")


def line_record(line: bytes) -> Record:
    """The record of a line of JSON."""
    too_long = len(line) > MAX_LINE
    return BadRow("line is too long", f"more than {MAX_LINE >> 20} MB") if too_long else _record(line)


def _skip_line(file: IO[bytes]) -> None:
    while (piece := file.readline(1 << 20)) and not piece.endswith(b"\n"):
        pass


def _record(line: bytes) -> Record:
    if b"\0" in line:
        return BadRow("NUL bytes", "the file was not written to its end, or is not text")
    try:
        return _object(_DECODER.decode(line.rstrip().decode("utf-8")))
    except UnicodeDecodeError as error:
        return BadRow("not UTF-8", f"byte 0x{line[error.start]:02x} at column {error.start + 1}")
    except json.JSONDecodeError as error:
        return BadRow("not JSON", f"{error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        return BadRow("not JSON", str(error))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object. ValueError when a key is in it twice: readers differ in which of the two they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!a} is given twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_once)


def _object(value: Any) -> Record:
    return value if isinstance(value, dict) else BadRow("not a JSON object", f"it is a {type(value).__name__}")


def _json(file: IO[bytes], name: str) -> Records:
    """A JSON array, or objects one after another (many `.json` files are JSON lines). Read once, decoded piecemeal."""
    start = file.peek(64)[:64].removeprefix(b"\xef\xbb\xbf").lstrip()  # type: ignore[attr-defined]
    if start[:1] == b"{" and _first_line_is_whole(file):
        yield from _jsonl(file, name)
        return
    data = file.read()
    _refuse_utf16(data, name)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        yield BadRow("not UTF-8", f"byte 0x{data[error.start]:02x}"), f"{name}:{line}"
        return
    yield from _elements(text, name)


def _first_line_is_whole(file: IO[bytes]) -> bool:
    line = file.readline(MAX_LINE).removeprefix(b"\xef\xbb\xbf")
    file.seek(0)
    return isinstance(_record(line), dict)


def _elements(text: str, name: str) -> Records:
    """Elements of an array or a sequence of objects; behind a broken one nothing can be trusted, so reading ends."""
    place, line, counted = _blank(text, 0, ""), 1, 0
    is_array = text[place : place + 1] == "["
    place = _blank(text, place + is_array, "")
    while place < len(text) and not (is_array and text[place] == "]"):
        line += text.count("\n", counted, place)
        counted = place
        try:
            value, place = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            at = line + text.count("\n", counted, error.pos) if isinstance(error, json.JSONDecodeError) else line
            why = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            yield BadRow("not JSON", f"{why} on line {at}; the rest of the file is not read"), f"{name}:{line}"
            return
        yield _object(value), f"{name}:{line}"
        place = _blank(text, place, "," if is_array else "")
    if is_array and place >= len(text):
        yield BadRow("not JSON", "the list is never closed: the file breaks off"), f"{name}:{text.count(chr(10)) + 1}"


def _blank(text: str, place: int, comma: str) -> int:
    """The next place that is not blank; at most one comma is passed over."""
    place = _SPACE.match(text, place).end()  # type: ignore[union-attr] - it matches nothing, too
    if comma and text[place : place + 1] == comma:
        place = _SPACE.match(text, place + 1).end()  # type: ignore[union-attr]
    return place


def _table(delimiter: str) -> Callable[[IO[bytes], str], Records]:
    def rows(file: IO[bytes], name: str) -> Records:
        _refuse_utf16(file.peek(2)[:2], name)  # type: ignore[attr-defined]
        csv.field_size_limit(MAX_LINE)  # the standard 128 kB is less than a long answer
        # Bytes that are not UTF-8 come through as surrogates, so that they can be told with their line.
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(iter(functools.partial(text.readline, MAX_LINE), ""), delimiter=delimiter)
        header = _header(reader, name)
        while True:
            origin = f"{name}:{reader.line_num + 1}"
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield BadRow("not CSV", str(error)), origin
                continue
            if cells:
                yield _cells(header, cells), origin

    return rows


def _header(reader: Iterator[list[str]], name: str) -> list[str]:
    try:
        header = [cell.strip() for cell in next(reader, [])]
    except csv.Error as error:
        raise UserError(f"{name}:1: not CSV: {error}") from None
    if isinstance(wrong := _cells(header, header), BadRow):
        raise UserError(f"{name}:1: the names of the columns: {wrong}")
    doubles = sorted({column for column in header if header.count(column) > 1})
    if doubles:
        raise UserError(f"{name}: two columns have the same name: {', '.join(map(repr, doubles))}")
    return header


def _cells(header: list[str], cells: list[str]) -> Record:
    if len(cells) != len(header):
        return BadRow("wrong number of cells", f"{len(cells)} cells under {len(header)} columns")
    joined = "".join(cells)
    if "\0" in joined:
        return BadRow("NUL bytes", "the file was not written to its end, or is not text")
    if not joined.isascii():
        try:
            joined.encode("utf-8")
        except UnicodeEncodeError as error:
            return BadRow("not UTF-8", f"byte 0x{ord(joined[error.start]) & 0xFF:02x}")
    return {column: _cell(column, cell) for column, cell in zip(header, cells, strict=True)}


def _cell(column: str, cell: str) -> Any:
    """CSV has no types: a `label` cell is true or false, lists and objects are JSON, an empty cell is empty text."""
    if column == "label" and cell.strip().lower() in ("true", "false"):
        return cell.strip().lower() == "true"
    if cell[:1] in ("[", "{") and cell[-1:] in ("]", "}"):
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    return cell


_READERS: dict[str, Callable[[IO[bytes], str], Records]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".parquet": parquet_records,
    ".arrow": arrow_records,
}
