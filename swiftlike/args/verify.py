"""Whether training and what a model is used with compute the same."""

from typing import Any

from swiftlike.core.declare import arg, section

ENGINES = ("pt", "vllm")


@section
class VerifyArgs:
    engines: list[str] = arg([], "what is compared with training: pt, vllm; none: both where vllm is installed")
    rows: int = arg(4, "rows of the data that are compared: the first ones", ge=1)
    bound: float | None = arg(
        None,
        "largest difference of a token's log-probability that passes; none: 0.001 in float32, 0.2 in half precision",
        ge=0,
    )


def problems(run: Any) -> list[str]:
    """What is missing or wrong."""
    found = [
        f"--engines: there is no {name!r}; there are {', '.join(ENGINES)}"
        for name in run.verify.engines
        if name not in ENGINES
    ]
    if not (run.data.dataset or run.data.val_dataset):
        found.append("which rows? name a data set: swiftlike verify DATASET")
    if not (run.use.ckpt_dir or run.use.adapters or run.model.model or run.model.model_type):
        found.append("which model? give --ckpt_dir, --adapters or --model (see `swiftlike list models`)")
    return found
