"""A script for sbatch: the same command on every machine, which then work together as DIST_NNODES says."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from swiftlike.core.merge import Run

_SCRIPT = """#!/bin/bash
# Made by `swiftlike iterate ... --launcher slurm`, for sbatch. Submit it again as often as needed: it goes on.
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --output=%x-%j.log
#SBATCH --requeue
{options}
set -euo pipefail
export DIST_NNODES="$SLURM_NNODES"
DIST_MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
export DIST_MASTER_ADDR
export DIST_MASTER_PORT="${{DIST_MASTER_PORT:-29500}}"
export DIST_NPROC_PER_NODE="${{DIST_NPROC_PER_NODE:-${{SLURM_GPUS_ON_NODE:-1}}}}"
srun --kill-on-bad-exit=1 bash -c 'DIST_NODE_RANK="$SLURM_NODEID" exec "$@"' swiftlike {command}
"""


def batch(run: Run, words: Sequence[str]) -> str:
    """The script. `words` are the recipe and its overrides."""
    args = run.iterate
    options = [f"#SBATCH --{option.removeprefix('--')}" for option in args.slurm_options]
    if args.gpus_per_stage is not None:
        options.append(f"#SBATCH --gpus-per-node={args.gpus_per_stage:g}")
    flags = ["--wait_timeout", f"{args.wait_timeout:g}"]
    for name in ("from_stage", "only"):
        value = getattr(args, name)
        flags += [f"--{name}", *([value] if isinstance(value, str) else value)] if value else []
    if not args.keep_backups:
        flags += ["--keep_backups", "false"]
    if args.shards > 1:
        flags += ["--shards", str(args.shards)]
    command = ["swiftlike", "iterate", *words, *flags]
    name = words[0].rpartition("/")[2].removesuffix(".yaml") or "swiftlike"
    return _SCRIPT.format(name=name, nodes=args.slurm_nodes, options="\n".join(options), command=shlex.join(command))
