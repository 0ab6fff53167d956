"""A data stage in pieces: which one this process takes, where it is kept, and the whole once every piece is there.

Pieces lie in a folder beside the output whose name holds a digest of everything that decides what is written, so that
only those of one and the same run are put together. The process that finds them complete writes the output.
"""

from __future__ import annotations

import dataclasses as dc
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from swiftlike.core import environment, log
from swiftlike.core.devices import own_devices
from swiftlike.core.errors import UserError
from swiftlike.data.files import read_file
from swiftlike.datasets_registry.card import BadRow
from swiftlike.models.placement import local_processes
from swiftlike.pipelines.journal import digest
from swiftlike.stages.shards import chunk, find_shards, is_complete, shard_name, write_shard

Item = TypeVar("Item")
_log = log.get_logger(__name__)
_PLACE = frozenset(("shard", "num_shards"))  # settings that differ between the pieces of a run


def shard_of(args: Any, env: Mapping[str, str]) -> tuple[int, int]:
    """(index, number) of the piece that this process takes: one per machine (--shard, or DIST_NODE_RANK of
    DIST_NNODES), and in it one per process that NPROC_PER_NODE started."""
    index, count = args.shard, args.num_shards
    if count is None:
        index, count = environment.place(env, "DIST_NODE_RANK", "DIST_NNODES")
    processes = log.world_size(env)
    if count > 1 and environment.number(env, "NNODES", 1) > 1:
        raise UserError("the machines are split by NNODES and by shards at once", hint="unset NNODES")
    return index * processes + log.rank(env), count * processes


@dc.dataclass(frozen=True)
class Piece:
    """Piece `index` of `count`. `decisive` is everything that decides what the run writes, its data included.

    `write` and `all` are for a piece that is not `alone`.
    """

    index: int
    count: int
    output: Path
    decisive: Mapping[str, Any]

    @property
    def alone(self) -> bool:
        """Whether it is the whole: no folder, no merge."""
        return self.count == 1

    @functools.cached_property
    def folder(self) -> Path:
        """Where the pieces of this run lie."""
        decisive = {name: value for name, value in self.decisive.items() if name not in _PLACE}
        return self.output.with_name(f"{self.output.name}.{digest(decisive | {'pieces': self.count})[:8]}")

    @property
    def place(self) -> Path:
        """The file of this piece; a journal stands beside it while it is made."""
        return self.output if self.alone else self.folder / shard_name(self.index, self.count)

    @property
    def settings(self) -> dict[str, Any]:
        """What the journal of this piece is begun with."""
        return dict(self.decisive) | {"shard": self.index, "num_shards": self.count}

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """This piece of some items: contiguous, as even as can be."""
        return chunk(items, self.count)[self.index]

    def is_there(self, *, overwrite: bool) -> bool:
        """Whether this piece was finished before (one that stands alone never was: its output is refused earlier)."""
        if self.alone or overwrite or not self.place.exists():
            return False
        _log.info("%s is there already", self.place)
        return True

    def is_done(self, *, overwrite: bool) -> bool:
        """Whether the whole was written before, by the same run. UserError when the output is of another one."""
        if self.alone or overwrite or not self.output.exists():
            return False
        if not is_complete(self.folder):
            raise UserError(f"{self.output} exists already", hint="--overwrite replaces it")
        _log.info("%s is there already", self.output)
        return True

    def write(self, values: Iterable[Any]) -> None:
        """Keep the finished piece, one JSON object a line."""
        try:
            write_shard(self.folder, self.index, self.count, values)
        except OSError as error:
            raise UserError(f"cannot write {self.place}: {error.strerror or error}") from error

    def all(self, rows: int | None = None) -> Iterator[Any] | None:
        """The lines of all pieces in order, None while some are missing.

        UserError, which names file and line, when the folder holds pieces of different runs, and, while reading, when
        a piece is damaged or has not its part of `rows` lines.
        """
        if not is_complete(self.folder):
            _log.info("%s is written when all %d shards are in %s", self.output, self.count, self.folder)
            return None
        lengths = None if rows is None else [len(one) for one in chunk(range(rows), self.count)]
        return _lines(find_shards(self.folder), lengths)


def _lines(paths: Sequence[Path], lengths: Sequence[int] | None) -> Iterator[Any]:
    for k, path in enumerate(paths):
        number = 0
        for value, origin in read_file(path):
            if isinstance(value, BadRow):
                raise _damaged(f"{origin}: {value}", path)
            number += 1
            yield value
        if lengths is not None and number != lengths[k]:
            raise _damaged(f"{path}:{number}: it ends here, after {number} of {lengths[k]} rows", path)


def _damaged(what: str, path: Path) -> UserError:
    return UserError(f"a shard is damaged: {what}", hint=f"remove {path.name} and run that shard again")


def take_card() -> None:
    """With several processes on a machine, each computes on a card of its own."""
    rank, processes = local_processes()
    if processes == 1:
        return
    import torch

    if mine := own_devices(torch.cuda.device_count(), processes, rank):
        torch.cuda.set_device(mine[0])
