"""Whole systems from one file: which recipe, and which of its stages."""

from typing import Any, Literal

from swiftlike.core.declare import arg, section


@section
class IterateArgs:
    recipe: list[str] = arg(
        [],
        "a recipe (a file, or the name of a built-in one) and what is changed in it, as in model=... max_iter=3 "
        "train.learning_rate=1e-6; `status` before it shows what is done",
    )
    status: bool = arg(False, "show the state of every stage and stop")
    dry_run: bool = arg(False, "show the command of every stage, and what would run, and stop")
    from_stage: str | None = arg(
        None, "first stage that is considered (dpo, iter1/dpo, iter1); earlier ones are taken as they are"
    )
    only: list[str] = arg([], "the stages that are considered; others are taken as they are")
    force: bool = arg(False, "run them again, also those that are done")
    keep_backups: bool = arg(
        True, "what a stage wrote before goes to <output_dir>/backup_<time>/<stage>; false: it is deleted"
    )
    launcher: Literal["local", "ray", "slurm"] = arg(
        "local",
        "local: processes on this machine (and, with DIST_NNODES, one such command on each of the others); ray: places "
        "stages on a Ray cluster; slurm: prints a script for sbatch",
    )
    shards: int = arg(1, "processes on each machine that a data stage is split into; its cards are divided", ge=1)
    wait_timeout: float = arg(3600.0, "seconds to wait for other machines that show no sign of life", ge=0)
    ray_address: str | None = arg(None, "ray: cluster to join; none: RAY_ADDRESS, else one on this machine")
    gpus_per_stage: float | None = arg(
        None, "ray: cards for each process of a stage, none: all of a machine; slurm: cards of each machine", ge=0
    )
    slurm_nodes: int = arg(1, "slurm: machines", ge=1)
    slurm_options: list[str] = arg([], "slurm: further #SBATCH options, as in partition=a100 time=24:00:00")


def problems(run: Any) -> list[str]:
    """What only several values together show."""
    args, found = run.iterate, []
    if not args.recipe or args.recipe == ["status"]:
        found.append("which recipe? give a file, or the name of a built-in one")
    if args.only and args.from_stage:
        found.append("--only and --from_stage: give one of them")
    if args.launcher == "slurm" and args.force:
        found.append("--force: a job that is submitted again would begin anew each time")
    return found
