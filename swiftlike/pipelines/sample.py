"""`swiftlike sample DATASET...`: answers of a model to the prompts of a data set, as data to judge or to train on.

Seeds come from --seed, --iteration and the place of the record in the data, not from what was computed before: a run
that goes on, and one that is split differently, give the same answers.
"""

from __future__ import annotations

import dataclasses as dc
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from swiftlike.core import log
from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.kinds import LeftOut
from swiftlike.engines.base import Answer, Engine, Request, Sampling
from swiftlike.pipelines.journal import ERROR, Journal, digest, journal
from swiftlike.pipelines.records import (
    LEFT_OUT,
    LOST,
    SEED,
    Account,
    Numbered,
    fingerprint,
    open_output,
    read_records,
    settings_of,
)
from swiftlike.pipelines.sample_rows import Asked, Reader, Sampled, Writer
from swiftlike.pipelines.serving import open_engine, open_model, sampling
from swiftlike.pipelines.shards import Piece, shard_of, take_card

_WINDOW = 1024  # prompts that are handed to the engine at once
_log = log.get_logger(__name__)


def run(run: Run) -> int:
    """Sample what `run.sample` asks for. Exit code 1: not one prompt was answered."""
    overwrite = run.sample.overwrite
    index, count = shard_of(run.shards, os.environ)
    output = open_output(run, run.sample.output, overwrite or count > 1)
    records = list(read_records(run, run.generate.seed))
    # a whole run goes on with rows that were mended, the pieces of one must be of the same rows
    data = digest([read.origin for read in records]) if count == 1 else fingerprint(records)[1]
    piece = Piece(index, count, output, settings_of(run) | {"data": data})
    account = Account()
    if piece.is_done(overwrite=overwrite):
        return 0
    if piece.is_there(overwrite=overwrite):
        return _merged(piece, len(records), account)
    with journal(piece.place, piece.settings, overwrite=overwrite) as kept:
        mine = piece.of(records)
        digests = [read.mark for read in mine]
        waiting = [k for k, read in enumerate(mine) if not kept.has(read.number, digests[k])]
        if len(waiting) < len(mine):
            _log.info("going on: %d of %d prompts were done before", len(mine) - len(waiting), len(mine))
        if waiting:
            work = _Work(run, kept, output.parent)
            work([(mine[k], digests[k]) for k in waiting])
        values = (
            kept.get(read.number, mark) or {ERROR: "it was not answered", "origin": read.origin}
            for read, mark in zip(mine, digests, strict=True)
        )
        if piece.alone:
            code = _written(output, values, account)
        else:
            piece.write(values)
            code = _merged(piece, len(records), account)
        if code == 0:
            kept.remove()
    return code


def _merged(piece: Piece, rows: int, account: Account) -> int:
    """The output, once every shard is there."""
    values = piece.all(rows)
    return 0 if values is None else _written(piece.output, values, account)


def _written(output: Path, values: Iterable[dict[str, Any]], account: Account) -> int:
    return account.write(output, (value["record"] for value in values if account.add(value)))


def requests_of(run: Run, model_folder: Path) -> tuple[Sampling, ...]:
    """What is asked for each prompt: n answers per temperature and, last, the greedy one. Without a temperature it is
    1, but for a model that is set to sample by itself. UserError when all answers would be the same."""
    base, args = sampling(run), run.sample
    default = None if _samples(model_folder) else 1.0
    temperatures = args.temperatures or [default if base.temperature is None else base.temperature]
    if args.num_return_sequences > 1 and 0 in temperatures:
        raise UserError(
            f"{args.num_return_sequences} answers at temperature 0 would all be the same",
            hint="give a --temperature above 0, or --num_return_sequences 1, or --add_zero_temperature",
        )
    found = [dc.replace(base, n=args.num_return_sequences, temperature=one) for one in temperatures]
    return (*found, dc.replace(base, n=1, temperature=0.0)) if args.add_zero_temperature else tuple(found)


def _samples(model_folder: Path) -> bool:
    """Whether the model's own generation_config.json asks for sampling."""
    path = model_folder / "generation_config.json"
    return path.is_file() and bool(json.loads(path.read_text(encoding="utf-8")).get("do_sample"))


def seed_of(seed: int, iteration: int, number: int, request: int) -> int:
    """31 bits that depend on nothing but these numbers."""
    text = f"{seed} {iteration} {number} {request}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big") >> 1


class _Work:
    """Prompts to an engine, each answered prompt to the journal."""

    def __init__(self, run: Run, kept: Journal, folder: Path) -> None:
        self.run, self.kept = run, kept
        self.seed = SEED if run.generate.seed is None else run.generate.seed
        self.opened = open_model(run)
        if self.opened.reward:
            raise UserError("a reward model does not answer", hint="swiftlike score asks it for scores")
        self.requests = requests_of(run, self.opened.model_folder)
        template = self.opened.checkpoint.template
        self.reader = Reader(run, template)
        self.writer = Writer(run, template, folder)

    def __call__(self, waiting: Sequence[tuple[Numbered, str]]) -> None:
        """Answer these prompts."""
        adapter = self._adapter()
        take_card()
        engine: Engine = open_engine(self.run, self.opened)
        try:
            for start in range(0, len(waiting), _WINDOW):
                asked = list(self._asked(waiting[start : start + _WINDOW]))
                self._answer(engine, asked, adapter)
                _log.info("%d of %d prompts", min(start + _WINDOW, len(waiting)), len(waiting))
        finally:
            engine.close()

    def _adapter(self) -> str:
        """The adapter that answers; "" where the engine serves the right one by itself."""
        if self.opened.served or not self.opened.adapters:
            return ""
        if len(self.opened.adapters) > 1:
            raise UserError(f"which adapter answers? There are {', '.join(self.opened.adapters)}", hint="give one")
        return next(iter(self.opened.adapters))

    def _asked(self, waiting: Iterable[tuple[Numbered, str]]) -> Iterator[tuple[Asked, str]]:
        """The prompts that can be asked; the journal is told why the others are not."""
        for read, mark in waiting:
            try:
                yield self.reader(read), mark
            except BadRow as error:
                self.kept.add(read.number, mark, {ERROR: str(error), "origin": read.origin})
            except LeftOut as reason:
                self.kept.add(read.number, mark, {LEFT_OUT: str(reason), "origin": read.origin})

    def _answer(self, engine: Engine, asked: Sequence[tuple[Asked, str]], adapter: str) -> None:
        per, requests = len(self.requests), []
        for one, _ in asked:
            seeds = [seed_of(self.seed, self.run.sample.iteration, one.number, k) for k in range(per)]
            requests += [
                Request(
                    prompt=one.row.prompt,
                    sampling=dc.replace(sampling, seed=seed),
                    adapter=adapter,
                    tools=one.row.tools,
                )
                for sampling, seed in zip(self.requests, seeds, strict=True)
            ]
        engine.generate(requests, done=self._taker(asked))

    def _taker(self, asked: Sequence[tuple[Asked, str]]) -> Callable[[int, Answer], None]:
        """Collects the answers of each prompt and keeps them when the last one is there."""
        per = len(self.requests)
        answers: dict[int, dict[int, Answer]] = {}
        lock = threading.Lock()

        def take(place: int, answer: Answer) -> None:
            k, request = divmod(place, per)
            with lock:
                found = answers.setdefault(k, {})
                found[request] = answer
                if len(found) < per:
                    return
                del answers[k]
            one, mark = asked[k]
            self.kept.add(one.number, mark, self._value(one, [found[request] for request in range(per)]))

        return take

    def _value(self, asked: Asked, answers: Sequence[Answer]) -> dict[str, Any]:
        error = next((answer.error for answer in answers if answer.error), "")
        if error:
            return {ERROR: error, "origin": asked.origin}
        lists = [tuple(one.text for one in answer.completions) for answer in answers]
        greedy = lists.pop()[0] if self.run.sample.add_zero_temperature else None
        try:
            record, gone = self.writer(asked, Sampled(lists=tuple(lists), greedy=greedy))
        except BadRow as error:
            return {ERROR: str(error), "origin": asked.origin}
        return {"record": record, "origin": asked.origin} | ({LOST: gone} if gone else {})
