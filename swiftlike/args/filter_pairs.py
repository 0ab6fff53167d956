"""Preference pairs to those that AIPO trains on."""

from typing import Any

from swiftlike.args import consistency
from swiftlike.args.data import DataArgs
from swiftlike.args.sample import output_problems, training_flags
from swiftlike.core.declare import arg, section

_OF_PAIRS = frozenset(
    (
        *("dataset", "dataset_seed", "columns", "custom_dataset_info", "image_root", "max_image_size_mb"),
        *("max_length", "max_prompt_length"),
    )
)


@section
class FilterPairsArgs:
    filter_urls: bool = arg(True, "leave out pairs with http:// or https:// in the chosen answer")
    ignore_rejected: bool = arg(True, "of links: the rejected answer may have them")
    keep_copies: bool = arg(
        True,
        "the pairs as they were read, after the filter of lengths and after that of links, as train_dataset.jsonl, "
        "train_dataset_remove_trunc.jsonl and train_dataset_filter_urls.jsonl beside the output",
    )
    output: str | None = arg(None, "file to write: .jsonl or .json, also with .gz")
    overwrite: bool = arg(False, "replace an output that exists")
    seed: int | None = arg(None, "seed of the #N draw; none: 42", ge=0)
    plugin: list[str] = arg(
        [], "Python files that add models or data sets", aliases=("custom_register_path", "external_plugins")
    )


@section
class PairDataArgs(DataArgs):
    max_length: int | None = arg(
        2560, "most tokens of a row; an answer may have what --max_prompt_length and 32 tokens leave of it", ge=1
    )
    max_prompt_length: int | None = arg(512, "most tokens of the prompt in its template", ge=1)


def problems(run: Any) -> list[str]:
    """What only several values together show."""
    found = consistency.data(run) + output_problems(run.filter_pairs.output) + training_flags(run, _OF_PAIRS)
    if not (run.model.model or run.model.model_type):
        found.append("--model: whose tokens and template? An id, a folder, or a registered name as --model_type")
    if run.data.max_length is None or run.data.max_prompt_length is None:
        found.append("--max_length and --max_prompt_length are numbers of tokens")
    return found
