"""`swiftlike check DATASET...`: every bad row with its place and reason, and what the data holds. No model needed."""

from __future__ import annotations

import json
import random
import sys
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run
from swiftlike.data.check import Pictures, Problem
from swiftlike.data.convert import Converter
from swiftlike.data.load import count_duplicates, draw, max_bytes, refuse_unknown_columns, sources_of
from swiftlike.data.report import Histogram, Report
from swiftlike.datasets_registry.row import Row
from swiftlike.losses import LOSSES

DECODED = 2000  # different pictures that are decoded whole; of the others only headers and ends are looked at


def run(run: Run) -> int:
    """Check the data of `run.data.dataset` and `val_dataset`. Gives the exit code: 1 when any row is bad."""
    kind = LOSSES.get(run.check.rlhf_type).data if run.check.rlhf_type else "auto"
    report, rows = examine(run.data, kind, run.check.seed, "hf" if run.model.use_hf else "ms")
    if run.model.model or run.model.model_type:
        _count_tokens(run, report, rows)
    text = json.dumps(report.as_json(), ensure_ascii=False, indent=2) if run.check.json else _as_text(report)
    sys.stdout.write(text + "\n")
    return 1 if report.problems else 0


def examine(data: Any, kind: str, seed: int, hub: str = "hf") -> tuple[Report, list[Row]]:
    """Read every record (or those that `#N` draws) and check it. `kind` "auto" takes rows as the file offers them."""
    report = Report()
    pictures = Pictures(decode=DECODED, max_bytes=max_bytes(data))
    rows: list[Row] = []
    sources = sources_of(data, [*data.dataset, *data.val_dataset], hub)
    converters = [Converter(source, kind, pictures, data.image_root) for source in sources]
    for converter in converters:
        report.datasets.append(converter.report)
        found = _examine(converter, seed if data.dataset_seed is None else data.dataset_seed)
        converter.report.train = len(found)
        rows.extend(found)
    refuse_unknown_columns(data.columns, converters)
    for row in rows:
        report.count_characters(row)
    count_duplicates(report, rows)
    report.pictures.update(pictures.sizes.values())
    if pictures.not_looked_at:
        report.datasets[-1].notes.append(f"{pictures.not_looked_at} pictures are on the web and were not looked at")
    return report, rows


def _examine(converter: Converter, seed: int) -> list[Row]:
    count = converter.source.wanted.count
    if count is None:
        records = converter.source.stream()
    else:
        table = converter.source.table()
        places, _ = draw(len(table), min(count, len(table)), 0.0, random.Random(seed))
        records = (table[place] for place in places)
    rows: list[Row] = []
    for record, origin in records:
        converter.report.found += 1
        rows.extend(converter.rows(record, origin))
    try:
        converter.refuse_unusable()
    except UserError as error:  # the other data sets are looked at all the same
        converter.report.notes.extend(str(error).splitlines())
    return rows


def _count_tokens(run: Run, report: Report, rows: list[Row]) -> None:
    from swiftlike.pipelines.preview import encode_lengths  # torch and transformers, only with a model

    lengths, problems = encode_lengths(run, rows, run.check.rlhf_type == "sft")
    report.lengths.update({f"{part} tokens": Histogram(values) for part, values in lengths.items()})
    for problem in problems:
        found = Problem(problem.origin, problem.kind, problem.detail)
        report.datasets[-1].problems.append(found)
        report.datasets[-1].bad.add(found.kind, found.as_text())


def _as_text(report: Report) -> str:
    """Every bad row first, then the counts by reason and the rest."""
    lines = [problem.as_text() for problem in report.problems]
    return "\n".join([*lines, *([""] if lines else []), report.as_text(charts=True)])
