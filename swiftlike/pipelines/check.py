"""`swiftlike check DATASET...`: every bad row with its place and reason, and what the data holds. No model needed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run
from swiftlike.data.check import Pictures, Problem
from swiftlike.data.convert import Converter
from swiftlike.data.load import held_out, load_source, max_bytes, read_rows, refuse_unknown_columns, sources_of
from swiftlike.data.report import DatasetReport, Histogram, Report
from swiftlike.data.seen import Seen
from swiftlike.datasets_registry.columns import LABELS
from swiftlike.datasets_registry.row import Row
from swiftlike.losses import LOSSES

DECODED = 2000  # different pictures that are decoded whole; of the others only headers and ends are looked at


def run(run: Run) -> int:
    """Check the data of `run.data.dataset` and `val_dataset`. Exit code 1: a row is bad, or a set has none."""
    kind = LOSSES.get(run.check.rlhf_type).data if run.check.rlhf_type else "auto"
    report, parts = examine(run.data, kind, run.check.seed, "hf" if run.model.use_hf else "ms")
    if run.check.rlhf_type:
        _ask_objective(run, report, parts)
    if run.model.model or run.model.model_type:
        _count_tokens(run, report, parts)
    text = json.dumps(report.as_json(), ensure_ascii=False, indent=2) if run.check.json else _as_text(report)
    sys.stdout.write(text + "\n")
    return 1 if report.problems or not all(parts) else 0


def examine(data: Any, kind: str, seed: int, hub: str = "hf") -> tuple[Report, list[list[Row]]]:
    """Read every record (or those that training draws for `#N`) and check it: the account, and the rows of each set.

    `kind` "auto" takes rows as the file offers them.
    """
    report = Report()
    pictures = Pictures(decode=DECODED, max_bytes=max_bytes(data))
    parts: list[list[Row]] = []
    seed = seed if data.dataset_seed is None else data.dataset_seed
    sources = sources_of(data, [*data.dataset, *data.val_dataset], hub)
    converters = [Converter(source, kind, pictures, data.image_root) for source in sources]
    for at, converter in enumerate(converters):
        report.datasets.append(converter.report)
        parts.append(_examine(converter, held_out(data) if at < len(data.dataset) else 1.0, seed))
    refuse_unknown_columns(data.columns, converters)
    rows = [row for part in parts for row in part]
    seen = Seen()
    for row in rows:
        seen.add(row)
    seen.enter(report, lambda place: rows[place].origin)
    report.pictures.update(pictures.sizes.values())
    if pictures.not_looked_at:
        report.datasets[-1].notes.append(f"{pictures.not_looked_at} pictures are on the web and were not looked at")
    return report, parts


def _examine(converter: Converter, ratio: float, seed: int) -> list[Row]:
    report = converter.report
    if converter.source.wanted.count is not None:
        train, val = load_source(converter, ratio, seed, read_rows)
        rows = train + val
    else:
        rows = []
        for record, origin in converter.source.stream():
            report.found += 1
            rows.extend(converter.rows(record, origin))
        report.train = len(rows)
    try:
        converter.refuse_unusable()
    except UserError as error:  # the other data sets are looked at all the same
        report.notes.extend(str(error).splitlines())
    if not rows:
        why = "none of the records is one" if report.found else "there are no records"
        report.notes.append(f"no usable rows: {why}")
    if converter.kind == "auto":
        report.notes.extend(_strange_labels(report))
    return rows


def _strange_labels(report: DatasetReport) -> list[str]:
    """Answers with a label that is no verdict may be meant for KTO."""
    unused = {name for mapping in report.mappings if mapping.kind == "completion" for name in mapping.unused}
    return [
        f"the column {name} is not true or false and is not used; verdicts (KTO) are written true and false"
        for name in LABELS
        if name in unused
    ]


def _ask_objective(run: Run, report: Report, parts: Sequence[Sequence[Row]]) -> None:
    """What the objective, with its usual values, says of each row's scores."""
    card = LOSSES.get(run.check.rlhf_type)
    wanted = run.check.num_contrastive
    args = card.args() if wanted is None else card.args(num_contrastive=wanted)
    found = [(row.origin, card.refuse(row.scores, row.size, args)) for part in parts for row in part]
    _add(report, parts, [Problem(origin, *reason) for origin, reason in found if reason])


def _add(report: Report, parts: Sequence[Sequence[Row]], problems: Sequence[Problem]) -> None:
    """Count bad rows in the report of the set that they are of."""
    for one, part in zip(report.datasets, parts, strict=True):
        origins = {row.origin for row in part}
        for problem in dict.fromkeys(problems):  # a row that is drawn twice is one bad row
            if problem.origin in origins:
                one.problems.append(problem)
                one.bad.add(problem.kind, problem.as_text())


def _count_tokens(run: Run, report: Report, parts: Sequence[Sequence[Row]]) -> None:
    from swiftlike.pipelines.preview import encode_lengths  # torch and transformers, only with a model

    rows = [row for part in parts for row in part]
    lengths, problems = encode_lengths(run, rows, run.check.rlhf_type == "sft")
    report.lengths.update({f"{part} tokens": Histogram(values) for part, values in lengths.items()})
    _add(report, parts, problems)


def _as_text(report: Report) -> str:
    """Every bad row first, then the counts by reason and the rest."""
    lines = [problem.as_text() for problem in report.problems]
    return "\n".join([*lines, *([""] if lines else []), report.as_text(charts=True)])
