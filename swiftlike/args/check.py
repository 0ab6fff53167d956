"""Looking at data without a model."""

from swiftlike.core.declare import arg, section


@section
class CheckArgs:
    rlhf_type: str | None = arg(None, "check that the rows fit this objective; none: any that they can train")
    json: bool = arg(False, "print the report as JSON")
    seed: int = arg(42, "seed of the #N draw", ge=0)
    plugin: list[str] = arg([], "Python files that add data sets", aliases=("custom_register_path", "external_plugins"))
