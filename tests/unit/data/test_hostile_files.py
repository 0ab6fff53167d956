"""Whatever a data file is or holds, the answer is rows or a message: never a crash, a hang, or all of the memory.

A fast share of the files runs with the suite; SWIFTLIKE_HOSTILE_FILES=10000 runs so many.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from swiftlike.args.check import CheckArgs
from swiftlike.args.data import DataArgs
from swiftlike.args.model import ModelArgs
from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run
from swiftlike.data.files import read_file
from swiftlike.data.load import load_rows
from swiftlike.data.sources import open_source
from swiftlike.datasets_registry.syntax import parse_all
from swiftlike.pipelines.check import run

from .hostile import GOOD, Hostile, every_value_everywhere, hostile_files, png

FILES = int(os.environ.get("SWIFTLIKE_HOSTILE_FILES", "400"))
WAITED, COMPUTED = 240, 20  # seconds for one file: a machine may do other things meanwhile, a processor may not
MEMORY = 1 << 30  # bytes above what the process has


class Hung(BaseException):
    """A file took too long."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Hung after the seconds above, MemoryError above so many further bytes."""

    def hang(*_: Any) -> None:
        raise Hung(f"more than {WAITED} s, or {COMPUTED} s of computing")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    clocks = {signal.SIGALRM: (signal.ITIMER_REAL, WAITED), signal.SIGPROF: (signal.ITIMER_PROF, COMPUTED)}
    handlers = {one: signal.signal(one, hang) for one in clocks}
    for clock, seconds in clocks.values():
        signal.setitimer(clock, seconds)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        for one, (clock, _) in clocks.items():
            signal.setitimer(clock, 0)
            signal.signal(one, handlers[one])


def place(path: Path, what: bytes | str) -> None:
    """Put a file there, or what is not one."""
    if isinstance(what, bytes):
        path.write_bytes(what)
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to(path.name if what == "loop" else "/dev/zero")


def answered(path: Path, kind: str, drop: bool) -> str:
    """What `check` prints and what training says to a file."""
    data = DataArgs(dataset=[str(path)], on_bad_row="drop" if drop else "error", dataset_test_ratio=0.0)
    said, out = [], io.StringIO()
    try:
        objective = {"pair": "dpo", "labelled": "kto", "ranked": "exo"}.get(kind)
        with contextlib.redirect_stdout(out):
            run(Run("check", {"data": data, "check": CheckArgs(rlhf_type=objective), "model": ModelArgs()}))
    except UserError as error:
        said.append(str(error))
    said.append(out.getvalue())
    try:
        loaded = load_rows(data, kind, 1)
        said.append("\n".join(loaded.report.as_text(charts=False).splitlines()))
    except UserError as error:
        said.append(str(error))
    with contextlib.suppress(UserError):  # what tells whether prepared rows are still good
        for wanted in parse_all([str(path)]):
            open_source(wanted, {}).identity()
    return "\n".join(said)


KINDS = st.sampled_from(["auto", "pair", "labelled", "ranked", "completion"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@settings(
    max_examples=FILES, deadline=None, derandomize=FILES < 1000, database=None, suppress_health_check=list(HealthCheck)
)
@given(hostile_files(), KINDS, st.booleans())
def test_every_hostile_file_is_answered(tmp_path: Path, hostile: Hostile, kind: str, drop: bool) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    try:
        for name in ("fifo", "folder", "loop", "zero"):
            place(folder / name, name)
        place(folder / "p.png", hostile.picture)
        path = folder / hostile.name
        place(path, hostile.data)
        with bounded():
            said = answered(path, kind, drop)
        assert str(path) in said or hostile.name in said, "the file is not named"
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["auto", "labelled"])
def test_every_nasty_value_in_every_column(tmp_path: Path, kind: str) -> None:
    """One file of some fifteen thousand records: each is read, or named with its line."""
    found = list(every_value_everywhere())
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in found))
    with bounded():
        said = answered(path, kind, True)
    assert f"found {len(found)}, got " in said


def test_any_depth_is_answered(tmp_path: Path) -> None:
    """What the reader can take in, the message about it must be able to show."""
    for depth in (*range(700, 1000, 7), 100_000):
        for key in ("nobody_knows", "messages", "tools", "images", "query"):
            path = tmp_path / "a.jsonl"
            path.write_text(f'{{"{key}": {"[" * depth}{"]" * depth}}}\n')
            assert str(path) in answered(path, "auto", False)


@pytest.mark.parametrize(
    "record",
    [{"k" * 5_000_000: 1}, {f"key_{n}": n for n in range(200_000)}, {"messages": [{"role": "k" * 5_000_000}]}],
    ids=["key", "keys", "value"],
)
def test_a_message_is_short_however_long_its_cause(tmp_path: Path, record: dict[str, Any]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(record) + "\n")
    with bounded():
        said = answered(path, "auto", False)
    assert f"{path}:1: " in said
    assert len(said) < 20_000


def test_damaged_offsets_are_seen_before_they_are_followed(tmp_path: Path) -> None:
    offsets, text = pa.py_buffer(struct.pack("<3i", 0, 1 << 30, 2)), pa.py_buffer(b"ab")
    column = pa.StringArray.from_buffers(2, offsets, text)
    table = pa.table({"query": column})
    path = tmp_path / "a.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    with bounded():
        assert f"{path} is not a whole arrow file" in answered(path, "auto", True)


# -- bombs ------------------------------------------------------------------------------------------------------------

UNPACKED = 128 << 20  # bytes of nothing


def _packed(piece: bytes) -> bytes:
    """Megabytes of one piece over and over, as some hundred kilobytes of gzip."""
    whole = piece * ((1 << 20) // len(piece))
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packer.compress(whole) for _ in range(UNPACKED >> 20)) + packer.flush()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "piece"),
    [
        ("a.jsonl.gz", b"\0"),
        ("a.jsonl.gz", b'{"query": "%s", "response": "a"}\n' % (b"q" * 4000)),
        ("a.json.gz", b" "),
        ("a.csv.gz", b"a"),
        ("a.parquet.gz", b"\0"),
    ],
)
def test_what_is_packed_a_thousand_times_smaller_is_refused(tmp_path: Path, name: str, piece: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(_packed(piece))
    assert path.stat().st_size < UNPACKED / 200
    with bounded():
        said = answered(path, "auto", True)
    assert f"{path} unpacks to more than " in said


def test_columns_packed_a_thousand_times_smaller_are_refused(tmp_path: Path) -> None:
    long = pa.array(["x" * 100_000]).dictionary_encode()
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), long.dictionary)
    path, nothing = tmp_path / "a.parquet", tmp_path / "b.parquet"
    parquet.write_table(pa.table({"query": repeated}), path)
    parquet.write_table(pa.table({"query": pa.nulls(1 << 20)}), nothing)
    assert max(path.stat().st_size, nothing.stat().st_size) < 1 << 20
    with bounded():
        for one in (path, nothing):
            with pytest.raises(UserError, match="unpacks to more than"):
                list(read_file(one))


@pytest.mark.parametrize(
    ("size", "pixels", "reason"),
    [((100_000, 100_000), b"", "too large"), ((60_000, 1000), b"", "too large"), ((7000, 7000), b"\0", "broken")],
)
def test_pictures_that_would_fill_the_memory(tmp_path: Path, size: tuple[int, int], pixels: bytes, reason: str) -> None:
    (tmp_path / "p.png").write_bytes(png(*size, pixels))
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(GOOD | {"images": ["p.png"]}) + "\n")
    with bounded():
        assert f"{path}:1: image is {reason}" in answered(path, "auto", False)


# -- what is no file, and what no terminal can show -------------------------------------------------------------------


@pytest.mark.parametrize("special", ["fifo", "zero", "folder", "loop"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet", ".arrow", ".jsonl.gz", ""])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, special: str, suffix: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    place(folder / f"a{suffix}", special)
    with bounded():
        assert str(folder / f"a{suffix}") in answered(folder / f"a{suffix}", "auto", False)
        assert str(folder) in answered(folder, "auto", False)


def test_a_picture_that_is_no_file_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for special in ("fifo", "zero", "folder", "loop"):
        place(tmp_path / special, special)
        path.write_text(json.dumps(GOOD | {"images": [special]}) + "\n")
        with bounded():
            assert f"{path}:1: image is missing: {tmp_path / special}" in answered(path, "auto", False)


def test_the_command_line_shows_what_a_terminal_cannot(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"query": "q", "response": "a", "\\ud800": 1}\n{"\\udfff": "\\u001b[2J"}\n')
    words = [sys.executable, "-m", "swiftlike", "check", str(path)]
    done = subprocess.run(words, capture_output=True, check=False, timeout=120, env={**os.environ, "LC_ALL": "C"})
    assert done.returncode == 1, done.stderr
    assert rb"not used: \ud800" in done.stdout
    assert f"{path}:2: ".encode() in done.stdout
