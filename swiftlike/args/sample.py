"""Answers of a model to the prompts of a data set."""

from typing import Any, Literal

from swiftlike.args import consistency
from swiftlike.args.shards import shard_problems
from swiftlike.core.declare import arg, section
from swiftlike.core.merge import COMMAND_LINE

WRITABLE = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
OF_PROMPTS = frozenset(  # flags of data that mean something where rows are only read
    (
        *("dataset", "dataset_seed", "columns", "custom_dataset_info", "image_root", "max_image_size_mb"),
        *("max_pixels", "min_pixels", "max_image_tokens", "max_tiles"),
    )
)


@section
class SampleArgs:
    num_return_sequences: int = arg(
        4, "answers to each prompt, at each temperature", ge=1, aliases=("num_samples", "num_responses")
    )
    temperatures: list[float] = arg([], "--num_return_sequences answers at each of these; none: at --temperature")
    add_zero_temperature: bool = arg(False, "one greedy answer more")
    include_gt: bool = arg(False, "the data set's own answer as one more; a row without one is an error of that row")
    prompt_min_length: int | None = arg(
        None, "prompts of fewer tokens (no template, no special tokens) are left out; AIPO: 3", ge=0
    )
    prompt_max_length: int | None = arg(None, "prompts of more tokens are left out; AIPO: 512", ge=1)
    output: str | None = arg(None, "file to write: .jsonl or .json, also with .gz")
    output_format: Literal["exo", "apo", "aipo", "chat"] = arg(
        "exo",
        "exo: prompt (text) and completions; apo: query_id, query, sample_0 ...; aipo: the first turn's prompt and "
        "responses; chat: prompt as messages, and completions",
    )
    add_system_message: bool = arg(False, "aipo: an empty system message where a prompt has none")
    keep_columns: list[str] = arg([], "columns of the data that are copied to the output (a reference answer ...)")
    overwrite: bool = arg(False, "start over, and replace an output that exists; without it a stopped run goes on")
    iteration: int = arg(0, "round of an iterative training: each has seeds of its own", ge=0)
    plugin: list[str] = arg(
        [], "Python files that add models or data sets", aliases=("custom_register_path", "external_plugins")
    )


def problems(run: Any) -> list[str]:
    """What only several values together show."""
    args = run.sample
    found = [] if run.data.dataset else ["--dataset: whose prompts are answered?"]
    found += consistency.using(run)
    found += output_problems(args.output) + training_flags(run, OF_PROMPTS)
    if args.temperatures and run.generate.temperature is not None:
        found.append("--temperature and --temperatures: give one of them")
    if args.add_system_message and args.output_format != "aipo":
        found.append("--add_system_message goes with --output_format aipo; elsewhere see --system")
    if args.prompt_max_length is not None and (args.prompt_min_length or 0) > args.prompt_max_length:
        found.append("--prompt_min_length is above --prompt_max_length: no prompt would be left")
    return found + shard_problems(run.shards)


def output_problems(output: str | None) -> list[str]:
    """Why no file can be written there."""
    if output is None:
        return ["--output: which file is written?"]
    return [] if output.lower().endswith(WRITABLE) else [f"--output {output}: it ends in {', '.join(WRITABLE)}"]


def training_flags(run: Any, used: frozenset[str]) -> list[str]:
    """Flags of training data that were given and that this command would not read."""
    names = vars(run.data).keys() - used
    return [
        f"--{name} is for training; `swiftlike {run.command}` does not read it"
        for name in sorted(names)
        if run.origin.get(name) == COMMAND_LINE
    ]
