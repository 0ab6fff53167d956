"""`swiftlike score DATASET...`: answers to verdicts, and what is made of those."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from swiftlike.args.score import chosen_scorer
from swiftlike.core.errors import UserError
from swiftlike.core.log import get_logger
from swiftlike.core.merge import Run
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.kinds import LeftOut
from swiftlike.pipelines.journal import ERROR, Journal, journal
from swiftlike.pipelines.judges import SCORERS, Group, GroupScorer, ScorerCard
from swiftlike.pipelines.records import (
    LEFT_OUT,
    Account,
    Numbered,
    fingerprint,
    open_output,
    read_records,
    settings_of,
)
from swiftlike.pipelines.score_rows import Writer, group_of, judged
from swiftlike.pipelines.shards import Piece, shard_of, take_card
from swiftlike.stages.conversation import Count

_WINDOW = 256  # groups that are handed to the scorer at once
_WRITING = frozenset(("write", "length_penalty", "pair_system"))  # what is done with scores that are there
_log = get_logger(__name__)
Waiting = tuple[Numbered, str]
Value = dict[str, Any]


def run(run: Run) -> int:
    """Score what `run.score` asks for. Exit code 1: nothing was written."""
    card = SCORERS.get(chosen_scorer(run))
    overwrite = run.score.overwrite
    index, pieces = shard_of(run.shards, os.environ)
    output = open_output(run, run.score.output, overwrite or pieces > 1)
    count = _counter(run) if run.score.length_penalty else None
    settings = {name: value for name, value in settings_of(run).items() if name not in _WRITING}
    rows, data = (0, "") if pieces == 1 else fingerprint(read_records(run, run.score.seed))
    piece = Piece(index, pieces, output, settings | {"scorer": card.name, "data": data})
    if piece.is_done(overwrite=overwrite):
        return 0
    if piece.is_there(overwrite=overwrite):
        return _merged(run, piece, rows, count)
    with journal(piece.place, piece.settings, overwrite=overwrite) as kept:
        numbers = None if piece.alone else piece.of(range(rows))
        _score(run, card, kept, numbers)
        values = (
            kept.get(read.number, read.mark) or {ERROR: "the scorer said nothing", "origin": read.origin}
            for read in _records(run, numbers)
        )
        if piece.alone:
            code = _written(run, output, values, count)
        else:
            piece.write(values)
            code = _merged(run, piece, rows, count)
        if code == 0:
            kept.remove()
    return code


def _merged(run: Run, piece: Piece, rows: int, count: Count | None) -> int:
    """The output, once every shard is there."""
    values = piece.all(rows)
    return 0 if values is None else _written(run, piece.output, values, count)


def _written(run: Run, output: Path, values: Iterable[Value], count: Count | None) -> int:
    """What is made of the scores of all records."""
    account = Account()
    ranks = SCORERS.get(chosen_scorer(run)).ranks
    writer = Writer(run.score.write, output.parent, run.score.pair_system, ranks, account.answers)
    return account.write(output, _made(run, values, writer, count, account))


def _made(run: Run, values: Iterable[Value], writer: Writer, count: Count | None, account: Account) -> Iterator[Value]:
    """What is written, row by row."""
    for read, value in zip(_records(run), values, strict=True):
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


def _records(run: Run, numbers: Sequence[int] | None = None) -> Iterator[Numbered]:
    """All records, or those of a piece."""
    found = read_records(run, run.score.seed)
    return found if numbers is None else itertools.islice(found, numbers[0], numbers[-1] + 1) if numbers else iter(())


def _score(run: Run, card: ScorerCard, kept: Journal, numbers: Sequence[int] | None) -> None:
    """Bring the journal up to date. The scorer is opened when there is something to score."""
    before = 0
    scorer: GroupScorer | None = None

    def waiting() -> Iterator[Waiting]:
        nonlocal before
        for read in _records(run, numbers):
            mark = read.mark
            if kept.has(read.number, mark):
                before += 1
            else:
                yield read, mark

    rows, done = waiting(), 0
    try:
        while window := list(itertools.islice(rows, _WINDOW)):
            if scorer is None:
                take_card()
                scorer = card.open(run)
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


def _counter(run: Run) -> Count:
    """Counts the tokens of an answer with the tokenizer of the model that the run names."""
    from swiftlike.pipelines.serving import open_model

    model = run.model
    if not (model.model or model.model_type or run.use.ckpt_dir or run.use.adapters):
        raise UserError("--length_penalty counts tokens: with whose tokenizer?", hint="give --model")
    tokenizer = open_model(run).checkpoint.tokenizer
    return lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
