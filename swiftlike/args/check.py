"""Looking at data without a model."""

from typing import Any

from swiftlike.args.consistency import data
from swiftlike.core.declare import arg, section


@section
class CheckArgs:
    rlhf_type: str | None = arg(None, "check that the rows fit this objective; none: any that they can train")
    num_contrastive: int | None = arg(
        None, "exo: answers that are compared with each other, which must divide those of every row; none: 2", ge=2
    )
    json: bool = arg(False, "print the report as JSON")
    seed: int = arg(42, "seed of the #N draw", ge=0)
    plugin: list[str] = arg([], "Python files that add data sets", aliases=("custom_register_path", "external_plugins"))


def problems(run: Any) -> list[str]:
    """What is missing, and flags that do not go together."""
    alone = run.check.num_contrastive is not None and run.check.rlhf_type != "exo"
    return [*data(run), *(["--num_contrastive is for --rlhf_type exo"] if alone else [])]
