"""`swiftlike self_instruct DATASET...`: new prompts from a model that is shown those of data sets (AIPO's first stage).

The work is divided into pools (streams, or clusters of the seeds) whatever the number of shards is. Draws and seeds
come from --seed, --iteration, the pool and the round, and what is new is decided inside a pool first and over all pools
at the end: a run that goes on, and one that is split differently, make the same prompts.
"""

from __future__ import annotations

import dataclasses as dc
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from swiftlike.core import log
from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run
from swiftlike.engines.base import Engine
from swiftlike.pipelines.clusters import clusters
from swiftlike.pipelines.journal import Journal, begun, digest, journal
from swiftlike.pipelines.records import SEED, Account, open_output, settings_of
from swiftlike.pipelines.seed_prompts import counter, read_seeds
from swiftlike.pipelines.self_instruct_rounds import Rounds, requests_of
from swiftlike.pipelines.serving import open_engine, open_model
from swiftlike.pipelines.shards import Piece, shard_of, take_card
from swiftlike.stages.conversation import Count
from swiftlike.stages.instructions import Parsing
from swiftlike.stages.self_instruct import Asked, Pool, SelfInstruct, pool_random, self_instruct, shares

_CLUSTERS = "clusters.json"
_NO_LIMIT = 1 << 62
_log = log.get_logger(__name__)


@dc.dataclass(frozen=True, kw_only=True)
class Share:
    """The seeds of a pool, and how many prompts are to be made of them."""

    seeds: Sequence[str]
    target: int


def run(run: Run) -> int:
    """Make what `run.self_instruct` asks for. Exit code 1: there is not one new prompt."""
    args = run.self_instruct
    index, count = shard_of(run.shards, os.environ)
    may_exist = args.overwrite or count > 1 or begun(Path(args.output).expanduser())
    output = open_output(run, args.output, may_exist)
    counting, account = counter(run), Account()
    seeds = read_seeds(run, account)
    piece = Piece(index, count, output, settings_of(run) | {"data": digest(seeds)})
    if piece.is_done(overwrite=args.overwrite):
        return 0
    take_card()
    if piece.is_there(overwrite=args.overwrite):
        return _written(run, piece, account, shares_of(args, seeds, piece.folder))
    with journal(piece.place, piece.settings, overwrite=args.overwrite) as kept:
        pools = shares_of(args, seeds, piece.folder)
        mine = dict(piece.of(list(pools.items())))
        rows = _Work(run, kept, counting)(mine, seeds) if mine else []
        if not piece.alone:
            piece.write(rows)
        code = _written(run, piece, account, pools, rows)
        if code == 0:
            kept.remove()
    if code == 0 and piece.alone and args.clustering:
        shutil.rmtree(piece.folder)
    return code


def shares_of(args: Any, seeds: Sequence[str], folder: Path) -> dict[int, Share]:
    """The pools by number: the same whatever the number of shards."""
    if args.clustering:
        found = clusters(seeds, args, folder / _CLUSTERS)
        return {number: Share(seeds=texts, target=args.prompts_per_cluster) for number, texts in found.items()}
    targets = shares(args.n_instructions_to_generate_total, args.streams)
    return {number: Share(seeds=seeds, target=target) for number, target in enumerate(targets)}


def options_of(args: Any, target: int) -> SelfInstruct:
    """What `run.self_instruct` asks of a pool."""
    least, most = args.prompt_min_length, args.prompt_max_length
    return SelfInstruct(
        target=target,
        n_prompt_instructions=args.n_prompt_instructions,
        n_machine_instructions=args.n_machine_instructions,
        max_n_generate_instructions=args.max_n_generate_instructions,
        mini_group_size=args.mini_group_size,
        parsing=Parsing(
            parser=args.prompt_parser,
            prompt_min_length=0 if least is None else least,
            prompt_max_length=_NO_LIMIT if most is None else most,
            additional_filtering=args.additional_filtering,
        ),
        dedup=args.dedup,
        dedup_rouge=args.dedup_rouge,
    )


def new_over_all(rows: Iterable[dict[str, Any]], options: SelfInstruct) -> Iterator[dict[str, Any]]:
    """Rows of all pools in order, without those that an earlier pool has made as well."""
    known = options.known()
    for row in rows:
        if row["prompt"] not in known:
            known.add(row["prompt"])
            yield row


def _written(
    run: Run, piece: Piece, account: Account, pools: Mapping[int, Share], own: Iterable[dict[str, Any]] = ()
) -> int:
    """The output, once every piece is there; `own` are the rows of one that is the whole."""
    rows = own if piece.alone else piece.all()
    if rows is None:
        return 0
    code = account.write(piece.output, new_over_all(rows, options_of(run.self_instruct, 0)))
    wanted = sum(pool.target for pool in pools.values())
    if account.written < wanted:
        _log.warning("the model came up with %d of %d prompts", account.written, wanted)
    return code


class _Work:
    """Pools to rows, with a model that is loaded when the journal has not all of its answers."""

    def __init__(self, run: Run, kept: Journal, counting: Callable[[Any], Count]) -> None:
        self.run, self.kept = run, kept
        self.opened = open_model(run)
        if self.opened.reward:
            raise UserError("a reward model comes up with no prompts")
        self.count = counting(self.opened.checkpoint.tokenizer)
        self._engine: Engine | None = None

    def __call__(self, mine: Mapping[int, Share], seeds: Sequence[str]) -> list[dict[str, Any]]:
        """The new prompts of these pools."""
        args, seed = self.run.self_instruct, self.run.generate.seed
        known = options_of(args, 0).known(seeds)
        pools = {
            number: Pool(
                share.seeds,
                options_of(args, share.target),
                random=pool_random(SEED if seed is None else seed, args.iteration, number),
                count=self.count,
                seeds_of_all=known,
            )
            for number, share in mine.items()
        }
        adapter = self.opened.served or next(iter(self.opened.adapters), "")
        rounds = Rounds(self.kept, self.engine, requests_of(self.run, adapter))
        wanted = sum(share.target for share in mine.values())

        def generate(asked: Mapping[int, Asked]) -> dict[int, list[str]]:
            _log.info("%d of %d prompts; short: %d of %d pools", _made(pools), wanted, len(asked), len(pools))
            return rounds(asked)

        try:
            rows = self_instruct(pools, generate)
        finally:
            if self._engine is not None:
                self._engine.close()
        for reason, times in rounds.refused.most_common():
            _log.warning("%d times the model could not be asked: %s", times, reason)
        return rows

    def engine(self) -> Engine:
        """The engine, loaded when first asked for."""
        if self._engine is None:
            self._engine = open_engine(self.run, self.opened)
        return self._engine


def _made(pools: Mapping[int, Pool]) -> int:
    return sum(len(pool.new) for pool in pools.values())
