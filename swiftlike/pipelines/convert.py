"""`swiftlike convert FROM TO DATASET...`: data of one format as files of another, one row at a time."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from swiftlike.core.errors import UserError
from swiftlike.core.files import atomic
from swiftlike.core.log import get_logger
from swiftlike.core.merge import Run
from swiftlike.pipelines.convert_plan import Job, order_of, plan
from swiftlike.pipelines.convert_rows import Conversion, SecondInput

_log = get_logger(__name__)


def run(run: Run) -> int:
    """Convert what `run.convert` asks for. Exit code 1: not one row was written."""
    order = order_of(run.convert)
    jobs = plan(order)
    second = SecondInput(order)
    written = sum(_perform(job, second) for job in jobs)
    for line in second.as_lines():
        _log.info("%s", line)
    if not written:
        _log.error("nothing was written")
    return 0 if written else 1


def _perform(job: Job, second: SecondInput) -> int:
    """Write one file and tell what became of its rows: how many were written. Without any, no file appears."""
    parts = [Conversion(source, job.output.parent, second) for source in job.sources]
    try:
        written = write(job.output, (record for part in parts for record in part))
    except OSError as error:
        raise UserError(f"cannot write {job.output}: {error.strerror or error}") from error
    for line in (line for part in parts for line in part.as_lines()):
        _log.info("%s", line)
    if written:
        dropped = sum(part.report.bad.counts.total() for part in parts)
        without = f", without {dropped} that cannot be used (--on_bad_row error refuses such data)" * bool(dropped)
        _log.log(
            logging.WARNING if dropped else logging.INFO,
            "%d rows of %s in %s%s",
            *(written, second.order.target.name, job.output, without),
        )
    return written


def write(path: Path, records: Iterable[dict[str, Any]]) -> int:
    """One record a line, as a list when the file is called .json, packed when .gz; atomic. The number of records."""
    rest = iter(records)
    first = next(rest, None)
    if first is None:
        return 0
    count = 1
    is_list = path.name.removesuffix(".gz").endswith(".json")
    with atomic(path) as plain, _packed(plain, path) as file:
        file.write(("[\n" if is_list else "") + _line(first))
        for record in rest:
            file.write((",\n" if is_list else "\n") + _line(record))
            count += 1
        file.write("\n]\n" if is_list else "\n")
    return count


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False)


def _packed(file: IO[str], path: Path) -> contextlib.AbstractContextManager[IO[str]]:
    if path.suffix != ".gz":
        return contextlib.nullcontext(file)
    # no name and no time in it, so that equal rows give equal bytes
    packed = gzip.GzipFile(filename="", fileobj=file.buffer, mode="wb", mtime=0)  # type: ignore[attr-defined]
    return io.TextIOWrapper(packed, encoding="utf-8")  # type: ignore[arg-type]
