"""`swiftlike score DATASET...`: answers to verdicts, and what is made of those."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from swiftlike.args.score import chosen_scorer
from swiftlike.core.errors import UserError
from swiftlike.core.log import get_logger
from swiftlike.core.merge import Run
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.kinds import LeftOut
from swiftlike.pipelines.journal import ERROR, Journal, digest, journal
from swiftlike.pipelines.judges import SCORERS, Group, GroupScorer, ScorerCard
from swiftlike.pipelines.records import LEFT_OUT, Account, Numbered, open_output, read_records, settings_of
from swiftlike.pipelines.score_rows import Writer, group_of, judged

_WINDOW = 256  # groups that are handed to the scorer at once
_WRITING = frozenset(("write", "length_penalty", "pair_system"))  # what is done with scores that are there
_log = get_logger(__name__)
Waiting = tuple[Numbered, str]


def run(run: Run) -> int:
    """Score what `run.score` asks for. Exit code 1: nothing was written."""
    card = SCORERS.get(chosen_scorer(run))
    output = open_output(run, run.score.output, run.score.overwrite)
    count = _counter(run) if run.score.length_penalty else None
    settings = {name: value for name, value in settings_of(run).items() if name not in _WRITING}
    with journal(output, settings | {"scorer": card.name}, overwrite=run.score.overwrite) as kept:
        _score(run, card, kept)
        account = Account()
        writer = Writer(run.score.write, output.parent, run.score.pair_system, card.ranks, account.answers)
        code = account.write(output, _records(run, kept, writer, count, account))
        if code == 0:
            kept.remove()
    return code


def _records(
    run: Run, kept: Journal, writer: Writer, count: Callable[[str], int] | None, account: Account
) -> Iterator[dict[str, Any]]:
    """What is written, row by row."""
    for read in read_records(run, run.score.seed):
        value = kept.get(read.number, _mark(read))
        if value is None:
            continue
        if "scores" in value:
            try:
                group = group_of(read, run.data.image_root)
                value = {"record": writer(judged(group, value["scores"], count, run.score.length_penalty))}
            except LeftOut as reason:
                value = {LEFT_OUT: str(reason), "origin": read.origin}
            except BadRow as error:
                value = {ERROR: str(error), "origin": read.origin}
        if account.add(value):
            yield value["record"]


def _mark(read: Numbered) -> str:
    return digest(read.record if isinstance(read.record, dict) else str(read.record))


def _score(run: Run, card: ScorerCard, kept: Journal) -> None:
    """Bring the journal up to date. The scorer is opened when there is something to score."""
    before = 0
    scorer: GroupScorer | None = None

    def waiting() -> Iterator[Waiting]:
        nonlocal before
        for read in read_records(run, run.score.seed):
            mark = _mark(read)
            if kept.has(read.number, mark):
                before += 1
            else:
                yield read, mark

    rows, done = waiting(), 0
    try:
        while window := list(itertools.islice(rows, _WINDOW)):
            scorer = scorer or card.open(run)
            _score_window(run, scorer, window, kept)
            done += len(window)
            _log.info("scored %d rows", done)
    finally:
        if scorer is not None:
            scorer.close()
    if before:
        _log.info("%d rows were scored before", before)


def _score_window(run: Run, scorer: GroupScorer, window: list[Waiting], kept: Journal) -> None:
    groups: list[Group] = []
    owners: list[Waiting] = []
    for read, mark in window:
        try:
            groups.append(group_of(read, run.data.image_root))
            owners.append((read, mark))
        except LeftOut as reason:
            kept.add(read.number, mark, {LEFT_OUT: str(reason), "origin": read.origin})
        except BadRow as error:
            kept.add(read.number, mark, {ERROR: str(error), "origin": read.origin})

    def take(place: int, scores: list[float | None] | str) -> None:
        read, mark = owners[place]
        value = {ERROR: scores, "origin": read.origin} if isinstance(scores, str) else {"scores": scores}
        kept.add(read.number, mark, value)

    scorer.score(groups, take)


def _counter(run: Run) -> Callable[[str], int]:
    """Counts the tokens of an answer with the tokenizer of the model that the run names."""
    from swiftlike.pipelines.serving import open_model

    model = run.model
    if not (model.model or model.model_type or run.use.ckpt_dir or run.use.adapters):
        raise UserError("--length_penalty counts tokens: with whose tokenizer?", hint="give --model")
    tokenizer = open_model(run).checkpoint.tokenizer
    return lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
