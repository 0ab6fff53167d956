"""`alpaca_eval`, `mt_bench` and `arena_hard`: answers in the benchmark's file format, then a judge's verdicts."""

from __future__ import annotations

import dataclasses as dc
import json
from pathlib import Path
from typing import Any

from swiftlike.args.eval import names_model
from swiftlike.core.dotted import resolve
from swiftlike.core.errors import UserError
from swiftlike.core.files import errors_file, read_document, write_json, write_jsonl
from swiftlike.core.log import get_logger
from swiftlike.core.merge import Run
from swiftlike.pipelines.evaluate.answers import read_rows
from swiftlike.pipelines.evaluate.generate import Generate
from swiftlike.pipelines.evaluate.questions import BENCHES, Asked, Bench, read_questions
from swiftlike.pipelines.evaluate.results import Values, folder_of, publish
from swiftlike.pipelines.infer.batch import adapter_of
from swiftlike.pipelines.journal import Journal, digest, journal
from swiftlike.pipelines.records import Account, settings_of
from swiftlike.pipelines.serving import Opened, open_model
from swiftlike.stages.evaluation.answers import model_name

log = get_logger(__name__)
_JUDGES = {
    "alpaca_eval": "swiftlike.pipelines.evaluate.judge_alpaca:judge",
    "mt_bench": "swiftlike.pipelines.evaluate.judge_mt:judge",
    "arena_hard": "swiftlike.pipelines.evaluate.judge_arena:judge",
}


def run(run: Run) -> int:
    """Answer what is not answered yet; judge with --judge_model. Exit code 1: there are no answers."""
    kind = run.eval.eval_type
    bench = BENCHES[kind]
    questions, bad = read_questions(bench, run.eval.questions, run.eval.limit)
    opened = open_model(run) if names_model(run) else None
    run = opened.run if opened is not None else run
    model_id = model_name(run.eval.model_id or _name(opened))
    path = bench.path(folder_of(run), model_id)
    errors = _answered(run, bench, questions, opened, (path, model_id))
    rows = read_rows(path)
    values: Values = {"model_id": model_id, "answers": len(rows), "errors": errors, "file": str(path)}
    values |= {"questions": len(questions), "bad_rows": dict(bad.counts)}
    if run.judge.judge_model and rows:
        asked = [one.question for one in questions]
        values |= resolve(_JUDGES[kind])(run, asked, rows, model_id)
    publish(run, values, name=f"{kind}_{model_id}")
    return 0 if rows else 1


def _name(opened: Opened | None) -> str:
    """`v0-20261121-101500-checkpoint-2` for a checkpoint of a run; else what the model is called."""
    assert opened is not None
    folder = opened.adapters.get(adapter_of(opened))
    if folder is None and opened.run.use.ckpt_dir:
        folder = opened.model_folder
    if folder is None:
        return opened.checkpoint.source.name
    folder = folder.resolve()
    return f"{folder.parent.name}-{folder.name}" if folder.name.startswith("checkpoint-") else folder.name


def _answered(run: Run, bench: Bench, questions: list[Asked], opened: Opened | None, where: tuple[Path, str]) -> int:
    """Bring the file of answers about; how many questions have none because of an error."""
    path, model_id = where
    if opened is None:
        if not path.is_file():
            raise UserError(f"there is no {path} to judge", hint="name a model, and it is written")
        return 0
    settings = _settings(run, questions, model_id)
    notes = folder_of(run) / f"{run.eval.eval_type}_{model_id}.settings.json"
    if path.is_file() and not run.eval.overwrite:
        _same(path, notes, settings)
        log.info("answers are there already: %s", path)
        return 0
    account = Account()
    with journal(path, settings, overwrite=run.eval.overwrite) as kept:
        _generate(run, bench, questions, opened, (model_id, kept))
        values = [kept.get(one.number, digest(one.question)) for one in questions]
        rows = [value["record"] for value in values if value is not None and account.add(value)]
        bench.write(path, rows)
        write_json(notes, settings)
        kept.remove()
    _tell(account, path, errors_file(notes.with_name(f"{run.eval.eval_type}_{model_id}.json")), len(rows))
    return len(account.errors)


def _generate(run: Run, bench: Bench, questions: list[Asked], opened: Opened, where: tuple[str, Journal]) -> None:
    model_id, kept = where
    marked = [(one, digest(one.question)) for one in questions]
    waiting = [(one, mark) for one, mark in marked if not kept.has(one.number, mark)]
    if len(waiting) < len(marked):
        log.info("going on: %d of %d questions were answered before", len(marked) - len(waiting), len(marked))
    if waiting:
        generate = Generate(run, bench, opened, model_id)
        try:
            generate(waiting, kept)
        finally:
            generate.close()


def _tell(account: Account, path: Path, beside: Path, written: int) -> None:
    """The account; errors also go to a file, which is not among the answers: benchmarks read all files there."""
    account.written = written
    if account.errors:
        write_jsonl(beside, account.errors)
    else:
        beside.unlink(missing_ok=True)
    for line in account.as_lines(path):
        log.info("%s", line)


def _settings(run: Run, questions: list[Asked], model_id: str) -> dict[str, Any]:
    """What decides the answers."""
    sections = (run.use, run.model, run.generate, run.engine)
    names = {field.name for section in sections for field in dc.fields(section)} | {"num_choices"}
    known = {name: value for name, value in settings_of(run).items() if name in names}
    return known | {"model_id": model_id, "questions": digest([one.question for one in questions])}


def _same(path: Path, notes: Path, settings: dict[str, Any]) -> None:
    """Refuse to take answers that were made otherwise for those that are asked for now."""
    settings = json.loads(json.dumps(settings))
    before = read_document(notes) if notes.is_file() else settings
    names = sorted(name for name in {*before, *settings} if before.get(name) != settings.get(name))
    if names:
        raise UserError(
            f"{path} was made with other settings",
            problems=[f"{name}: {before.get(name)!r} then, {settings.get(name)!r} now" for name in names],
            hint="--overwrite makes it anew; --model_id gives these answers another name",
        )
