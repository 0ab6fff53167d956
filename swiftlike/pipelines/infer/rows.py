"""The rows that are to be answered, in order, those that cannot be among them."""

from __future__ import annotations

import dataclasses as dc
import hashlib
import random
from collections.abc import Mapping
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.core.log import get_logger
from swiftlike.core.merge import Run
from swiftlike.data.check import Pictures, fingerprint
from swiftlike.data.convert import Converter
from swiftlike.data.load import capped, draw, held_out, max_bytes, refuse_unknown_columns, sources_of
from swiftlike.datasets_registry.kinds import kind_of
from swiftlike.datasets_registry.row import Row

log = get_logger(__name__)
TRAINED_WITH = (  # flags that say which rows a training run held out, and how they are read
    *("dataset", "val_dataset", "dataset_test_ratio", "val_dataset_sample", "columns", "custom_dataset_info"),
    *("image_root", "use_hf"),
)
SEED = 42  # training's own


@dc.dataclass(frozen=True)
class Asked:
    """One row to answer: its place among all of them, and the row or why there is none."""

    index: int
    origin: str
    row: Row | None
    error: str = ""

    @property
    def length(self) -> int:
        """About how much there is to read: characters of the prompt, a picture counted as a page of text."""
        if self.row is None:
            return 0
        turns = self.row.prompt
        return sum(len(message.content) for message in turns.messages) + 2000 * len(turns.images)


def of_training(run: Run, saved: Mapping[str, Any]) -> Run:
    """With `--load_data_args`, the run with the data flags of the training run that left `saved`."""
    if not run.infer.load_data_args:
        return run
    if not (saved.get("dataset") or saved.get("val_dataset")):
        raise UserError(
            "--load_data_args: the checkpoint does not say what it was trained on", hint="use --val_dataset"
        )
    known = {flag: saved[flag] for flag in TRAINED_WITH if saved.get(flag) is not None}
    run = run.replace("the training run", **known)
    if run.data.val_dataset:  # then nothing was held out of the other
        run = run.replace("the training run", dataset=[])
    elif not run.data.dataset_test_ratio:
        raise UserError("--load_data_args: the training run held no rows out", hint="name some with --val_dataset")
    return run


def read_rows(run: Run, saved: Mapping[str, Any]) -> list[Asked]:
    """Every row of `--val_dataset`, or what training held out of `--dataset`, drawn as training draws it.

    A row that cannot be used is there with its error. UserError when a set cannot be read at all or gives no row.
    """
    data = run.data
    seeds = (data.dataset_seed, saved.get("dataset_seed"), saved.get("seed"), SEED)
    seed = next(one for one in seeds if one is not None)
    pictures = Pictures(max_bytes=max_bytes(data))
    names = data.val_dataset or data.dataset
    sources = sources_of(data, names, "hf" if run.model.use_hf else "ms")
    converters = [Converter(source, "any", pictures, data.image_root) for source in sources]
    ratio = 1.0 if data.val_dataset else held_out(data)
    found: list[Asked] = []
    for converter in converters:
        found += _read(converter, ratio, seed)
        converter.refuse_unusable()
        bad = len(converter.report.problems)
        log.info("%s: %d rows%s", converter.report.name, converter.report.val, f", {bad} cannot be used" * bool(bad))
        for line in converter.report.as_lines()[1:]:
            log.info("%s", line)
    refuse_unknown_columns(data.columns, converters)
    found = capped(found, data.val_dataset_sample, seed)
    if not found:
        held = "" if data.val_dataset else f"; --dataset_test_ratio {data.dataset_test_ratio:g} of a set was held out"
        raise UserError(f"there is no row to answer in {', '.join(names)}{held}")
    return [dc.replace(one, index=place) for place, one in enumerate(found)]


def _read(converter: Converter, ratio: float, seed: int) -> list[Asked]:
    table, report = converter.source.table(), converter.report
    report.found = len(table)
    wanted = converter.source.wanted.count
    if ratio >= 1 and wanted is not None and wanted > len(table):
        raise UserError(f"{report.name}#{wanted}: rows are not repeated; there are {len(table)}")
    _, places = draw(len(table), wanted, ratio, random.Random(seed))
    found = []
    for place in places:
        record, origin = table[place]
        before = len(report.problems)
        rows = converter.rows(record, origin)
        found += [Asked(0, origin, row) for row in rows]
        if wrong := report.problems[before:]:
            found.append(Asked(0, origin, None, "; ".join(one.as_text() for one in wrong)))
    report.val = len(found)
    return found


def own_answer(row: Row) -> str | None:
    """The answer that a row itself has: the chosen or best one; None for a disliked one."""
    if not row.size or row.label is False:
        return None
    best = max(range(row.size), key=lambda k: (row.scores[k], -k)) if kind_of(row) == "ranked" else 0
    return row.completions[best].messages[-1].content


def digest(rows: list[Asked]) -> str:
    """What two readings of the same data share."""
    out = hashlib.blake2b(digest_size=16)
    for one in rows:
        out.update(fingerprint(one.row) if one.row is not None else b"?")
        out.update(one.origin.rpartition("/")[2].encode())
    return out.hexdigest()
