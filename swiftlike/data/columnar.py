"""Records out of parquet and arrow files."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import IO, Any

from swiftlike.core.errors import UserError
from swiftlike.data.unpacked import Unpacked, refuse_bomb
from swiftlike.datasets_registry.card import BadRow

Records = Iterator[tuple[dict[str, Any] | BadRow, str]]
_BATCH = 256  # rows in memory at once
_RECORD = 256  # bytes at least that a row costs us, so that columns of nothing are bounded too
# Text that is not UTF-8, a date after the year 9999, a time zone that nobody knows.
_NO_VALUE = (ValueError, OverflowError, LookupError, SystemError)
_DAMAGED = (*_NO_VALUE, MemoryError)  # the same in the names of columns; a length that asks for any amount of memory


def parquet_records(file: IO[bytes], name: str) -> Records:
    """Records of a parquet file. UserError when it is not whole, or unpacks to far more than it is."""
    import pyarrow as pa
    from pyarrow import parquet

    seekable, size = _seekable(file)
    try:
        opened = parquet.ParquetFile(seekable)
        _refuse_doubles(opened.schema_arrow.names, name)
        yield from _batches(opened.iter_batches(batch_size=_BATCH), name, size)
    except (pa.ArrowException, *_DAMAGED) as error:
        raise UserError(f"{name} is not a whole parquet file: {error}") from error


def arrow_records(file: IO[bytes], name: str) -> Records:
    """Records of an arrow file or stream. UserError when it is not whole, or unpacks to far more than it is."""
    import pyarrow as pa

    seekable, size = _seekable(file)
    try:
        try:
            reader = pa.ipc.open_file(seekable)
            batches: Iterator[Any] = (reader.get_batch(k) for k in range(reader.num_record_batches))
        except pa.ArrowInvalid:
            seekable.seek(0)
            reader = pa.ipc.open_stream(seekable)
            batches = iter(reader)
        _refuse_doubles(reader.schema.names, name)
        yield from _batches(map(_sound, batches), name, size)
    except (pa.ArrowException, *_DAMAGED) as error:
        raise UserError(f"{name} is not a whole arrow file: {error}") from error


def _sound(batch: Any) -> Any:
    """The batch. ArrowInvalid when its offsets lead out of its memory, which nothing else would look at."""
    batch.validate(full=True)
    return batch


def _seekable(file: IO[bytes]) -> tuple[IO[bytes], int]:
    """(file, its size): columnar files are read from their end; a packed one has to be unpacked first."""
    if isinstance(getattr(file, "raw", None), Unpacked):
        data = file.read()
        return io.BytesIO(data), len(data)
    return file, os.fstat(file.fileno()).st_size


def _refuse_doubles(columns: list[str], name: str) -> None:
    doubles = sorted({column for column in columns if columns.count(column) > 1})
    if doubles:
        raise UserError(f"{name}: two columns have the same name: {', '.join(map(repr, doubles))}")


def _batches(batches: Iterator[Any], name: str, size: int) -> Records:
    number = unpacked = 0
    for batch in batches:
        repeats = any(hasattr(column.type, "value_type") for column in batch.columns)  # dictionaries: counted once
        unpacked += batch.nbytes + batch.num_rows * _RECORD
        refuse_bomb(unpacked, size, name)
        for record in _records(batch):
            number += 1
            if repeats and isinstance(record, dict):
                unpacked += sum(len(cell) for cell in record.values() if isinstance(cell, str | bytes))
                refuse_bomb(unpacked, size, name)
            yield record, f"{name}:{number}"


def _records(batch: Any) -> Iterator[dict[str, Any] | BadRow]:
    """Rows; the whole batch at once, and row by row only when something in it has no Python value."""
    try:
        rows = batch.to_pylist()
    except _NO_VALUE:
        rows = (_record(batch.slice(k, 1)) for k in range(batch.num_rows))
    yield from rows


def _record(row: Any) -> dict[str, Any] | BadRow:
    for column in row.schema.names:
        try:
            row.column(column).to_pylist()
        except UnicodeDecodeError as error:
            return BadRow("not UTF-8", f"{column!r}: byte 0x{error.object[error.start]:02x}")
        except _NO_VALUE as error:
            return BadRow("cannot be read", f"{column!r}: {error}")
    return row.to_pylist()[0]
