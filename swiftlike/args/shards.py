"""Which piece of a stage's data a process takes."""

from typing import Any

from swiftlike.core.declare import arg, section


@section
class ShardArgs:
    shard: int | None = arg(None, "which piece of the data this process takes, from 0; none: DIST_NODE_RANK or 0", ge=0)
    num_shards: int | None = arg(None, "pieces that the data is split into; none: DIST_NNODES or 1", ge=1)


def shard_problems(args: Any) -> list[str]:
    """Numbers that name no piece."""
    if (args.shard is None) != (args.num_shards is None):
        return ["--shard and --num_shards go together"]
    if args.shard is not None and args.shard >= args.num_shards:
        return [f"--shard {args.shard} is not below --num_shards {args.num_shards}: shards are counted from 0"]
    return []
