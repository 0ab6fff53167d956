"""A result in pieces, one per machine: how rows are split, what the files are called, whether all are there."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from swiftlike.core.errors import UserError
from swiftlike.core.files import write_jsonl

Item = TypeVar("Item")

_SHARD = re.compile(r"shard-(\d+)-of-(\d+)(?:\.jsonl)?")


class IncompleteError(UserError):
    """Not all shards are there yet."""


def chunk(items: Sequence[Item], count: int) -> list[Sequence[Item]]:
    """Split into `count` contiguous pieces; the first `len(items) mod count` are one longer. Pieces may be empty."""
    if count < 1:
        raise ValueError("there is at least one piece")
    length, longer = divmod(len(items), count)
    ends = [length * i + min(i, longer) for i in range(count + 1)]
    return [items[start:end] for start, end in itertools.pairwise(ends)]


def shard_name(index: int, count: int) -> str:
    """`shard-00000-of-00002.jsonl`."""
    if not 0 <= index < count:
        raise ValueError(f"there is no shard {index} of {count}")
    return f"shard-{index:05d}-of-{count:05d}.jsonl"


def write_shard(folder: str | Path, index: int, count: int, rows: Iterable[Any]) -> Path:
    """Write one piece; the file appears under its name when it is complete."""
    path = Path(folder) / shard_name(index, count)
    write_jsonl(path, rows)
    return path


def find_shards(folder: str | Path) -> list[Path]:
    """The files of a complete result, in order. IncompleteError says which are there and which are missing, UserError
    that there are those of different runs."""
    found: dict[int, dict[int, Path]] = {}
    for path in sorted(Path(folder).glob("shard-*")):
        if match := _SHARD.fullmatch(path.name):
            found.setdefault(int(match[2]), {})[int(match[1])] = path
    if not found:
        raise IncompleteError(f"{folder} holds no shards", hint="the stage that writes them has not run")
    if len(found) > 1:
        raise UserError(
            f"{folder} holds shards of {len(found)} different runs",
            problems=[f"of {count}: {_listed(shards)}" for count, shards in sorted(found.items())],
            hint="remove the ones that do not belong together",
        )
    ((count, shards),) = found.items()
    missing = sorted(set(range(count)) - set(shards))
    if missing:
        raise IncompleteError(
            f"{folder} is incomplete",
            problems=[f"shards that are there: {_listed(shards)} of {count}", f"missing: {_listed(missing)}"],
        )
    return [shards[index] for index in range(count)]


def is_complete(folder: str | Path) -> bool:
    """Whether every shard of one result is there. UserError when there are those of different runs."""
    try:
        return bool(find_shards(folder))
    except IncompleteError:
        return False


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(str(number) for number in sorted(numbers))
