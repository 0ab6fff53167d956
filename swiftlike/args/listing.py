"""Looking things up without a run."""

from swiftlike.core.declare import arg, section


@section
class ListArgs:
    what: list[str] = arg([], "models, datasets, losses, formats or flags, then a part of the name (* is a wildcard)")
    json: bool = arg(False, "print JSON")
    plugin: list[str] = arg(
        [],
        "Python files that add losses, models or data sets",
        aliases=("custom_register_path", "external_plugins"),
    )


@section
class EnvArgs:
    json: bool = arg(False, "print JSON")
