"""Records of the data sets of a run, numbered, and the files that are made of them one row at a time."""

from __future__ import annotations

import contextlib
import dataclasses as dc
import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.core.files import draft_of, errors_file, write_jsonl
from swiftlike.core.log import get_logger
from swiftlike.core.merge import Run
from swiftlike.data.files import Record
from swiftlike.data.load import draw, sources_of
from swiftlike.data.report import Reasons
from swiftlike.data.sources import Source
from swiftlike.pipelines.convert import write
from swiftlike.pipelines.journal import ERROR, digest

LEFT_OUT = "left_out"  # a value with this key says why a good row gives nothing
LOST = "lost"  # what of a row that is written the format has no place for
SEED = 42
_log = get_logger(__name__)
# What may change while a stopped run goes on: how fast it is, not what it writes.
_MAY_CHANGE = frozenset(
    (
        *("output", "overwrite", "dataset_num_proc", "device_map", "max_memory", "attn_impl", "max_batch_size"),
        *("max_num_seqs", "gpu_memory_utilization", "tensor_parallel_size", "enforce_eager", "pair_batch_size"),
        *("judge_api_key", "judge_concurrency", "judge_timeout", "judge_retries", "judge_cache"),
    )
)


@dc.dataclass(frozen=True, slots=True)
class Numbered:
    """One record, its place among all that the run reads, and where it stands."""

    number: int
    record: Record
    origin: str
    source: Source

    @property
    def mark(self) -> str:
        """What records of equal content share, also those that cannot be read."""
        return digest(self.record if isinstance(self.record, dict) else str(self.record))


def fingerprint(records: Iterable[Numbered]) -> tuple[int, str]:
    """How many records there are, and what records of the same places and contents share."""
    found, count = hashlib.blake2b(digest_size=8), 0
    for read in records:
        count += 1
        found.update(f"{read.origin}\n{read.mark}\n".encode("utf-8", "surrogatepass"))
    return count, found.hexdigest()


def read_records(run: Run, seed: int | None) -> Iterator[Numbered]:
    """All records of `run.data.dataset`, or those that training draws for `#N`."""
    seed = run.data.dataset_seed if run.data.dataset_seed is not None else SEED if seed is None else seed
    number = 0
    for source in sources_of(run.data, run.data.dataset, "hf" if run.model.use_hf else "ms"):
        for record, origin in _drawn(source, seed):
            yield Numbered(number, record, origin, source)
            number += 1


def _drawn(source: Source, seed: int) -> Iterator[tuple[Record, str]]:
    if source.wanted.count is None:
        yield from source.stream()
        return
    table = source.table()
    places, _ = draw(len(table), source.wanted.count, 0.0, random.Random(seed))
    yield from (table[place] for place in places)


def settings_of(run: Run) -> dict[str, Any]:
    """Everything that decides what a run writes."""
    return {name: value for name, value in run.flags().items() if name not in _MAY_CHANGE}


def open_output(run: Run, output: str, overwrite: bool) -> Path:
    """The file to write. UserError when it is there, or is one of those that are read."""
    path = Path(output).expanduser()
    read = [one for source in sources_of(run.data, run.data.dataset) for one in source.paths]
    if any(path.resolve() == one.resolve() or one.resolve() in path.resolve().parents for one in read):
        raise UserError(f"--output {path} lies in what is read", hint="give another --output")
    if path.is_dir():
        raise UserError(f"--output {path} is a folder", hint="give a file")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists already", hint="--overwrite replaces it")
    return path


class Account:
    """What became of the rows: written, left out, or wrong; errors also go to a file beside the output."""

    def __init__(self) -> None:
        self.read = self.written = 0
        self.errors: list[dict[str, Any]] = []
        self.wrong, self.left_out = Reasons(), Reasons()
        self.lost: Counter[str] = Counter()  # what of the rows that are written the format has no place for
        self.answers: Counter[str] = Counter()  # answers of such rows that are not written, by reason

    def add(self, value: Mapping[str, Any]) -> bool:
        """Count a row. Whether it is neither wrong nor left out."""
        self.read += 1
        if ERROR in value:
            self.errors.append({"origin": value["origin"], ERROR: value[ERROR]})
            self.wrong.add(value[ERROR].partition(":")[0], f"{value['origin']}: {value[ERROR]}")
        elif LEFT_OUT in value:
            self.left_out.add(value[LEFT_OUT], value["origin"])
        self.lost.update(value.get(LOST, ()))
        return ERROR not in value and LEFT_OUT not in value

    def write(self, output: Path, records: Iterable[dict[str, Any]]) -> int:
        """Write the output whole and, where rows went wrong, the file that says which. Gives the exit code."""
        draft = draft_of(output)  # pieces that end together may all find them complete: each then writes the whole
        try:
            self.written = write(draft, records)
            beside = errors_file(output)
            if self.errors:
                write_jsonl(beside, self.errors)
            else:
                beside.unlink(missing_ok=True)
            if self.written:  # last: who finds the output finds all that belongs to it
                draft.replace(output)
        except OSError as error:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise UserError(f"cannot write {output}: {error.strerror or error}") from error
        for line in self.as_lines(output):
            _log.info("%s", line)
        return 0 if self.written else 1

    def as_lines(self, output: Path) -> list[str]:
        """The account."""
        lines = [f"read {self.read} rows, wrote {self.written} to {output}"]
        if not self.written:
            lines = [f"read {self.read} rows; nothing was written"]
        if self.errors:
            lines.append(f"  wrong {len(self.errors)} (see {errors_file(output)}): {self.wrong.as_text()}")
        if self.left_out.counts:
            lines.append(f"  left out {self.left_out.counts.total()}: {self.left_out.as_text()}")
        if self.answers:
            gone = ", ".join(f"{count} {name}" for name, count in self.answers.most_common())
            lines.append(f"  answers left out of rows: {gone}")
        if self.lost:
            gone = ", ".join(f"{name} ({count} rows)" for name, count in self.lost.most_common())
            lines.append(f"  not carried over: {gone}")
        return lines
