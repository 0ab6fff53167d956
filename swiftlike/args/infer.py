"""Answers to the rows of a data set, or in a conversation."""

import re
from pathlib import Path

from swiftlike.args import consistency
from swiftlike.core.declare import arg, section
from swiftlike.core.merge import DEFAULT, Run

NO_MODEL = consistency.NO_MODEL_TO_USE
TRAINING_ONLY = (
    *("train_dataset_sample", "dataset_shuffle", "interleave_prob", "stopping_strategy", "streaming"),
    *("shuffle_buffer_size", "on_bad_row", "max_length", "max_prompt_length", "max_completion_length"),
    *("truncation_strategy", "dataset_num_proc", "load_from_cache_file"),
)


@section
class InferArgs:
    result_path: str | None = arg(
        None,
        "file of the answers, one JSON line each; a file that this command began is gone on with. None: "
        "CKPT_DIR/infer_result/<time>.jsonl; a conversation is only kept when this is given",
        aliases=("result_file",),
    )
    load_data_args: bool = arg(
        False,
        "take the data of the training run that made the checkpoint: its validation data, or the rows it held out",
        aliases=("load_dataset_config",),
    )
    stream: bool = arg(True, "in a conversation, show an answer while it is made")
    logprobs: bool = arg(False, "keep the log-probability of every token of an answer")
    top_logprobs: int | None = arg(None, "with --logprobs, so many likeliest tokens of each position beside it", ge=0)
    plugin: list[str] = arg(
        [], "Python files that add models or data sets", aliases=("custom_register_path", "external_plugins")
    )


def wants_rows(run: Run) -> bool:
    """Whether rows of a data set are to be answered, not what a person types."""
    return bool(run.data.dataset or run.data.val_dataset or run.infer.load_data_args)


def problems(run: Run) -> list[str]:
    """What is wrong with an `infer` command before anything is read."""
    use = run.use
    found = [*consistency.using(run), *_rows(run), *_answers(run), *_files(run)]
    if len(use.adapters) > 1:
        found.append("--adapters: `swiftlike infer` answers with one adapter; `swiftlike deploy` serves several")
    return found


def _rows(run: Run) -> list[str]:
    data = run.data
    found = [
        f"--{flag} is for training; it says nothing about rows to answer"
        for flag in TRAINING_ONLY
        if run.origin.get(flag, DEFAULT) != DEFAULT
    ]
    if data.dataset and not data.val_dataset and not data.dataset_test_ratio:
        found.append("--dataset_test_ratio 0 holds nothing of --dataset out; name the rows with --val_dataset")
    if run.infer.load_data_args and (data.dataset or data.val_dataset):
        found.append("--load_data_args takes the data of the training run; leave it or --val_dataset out")
    if run.infer.load_data_args and not (run.use.ckpt_dir or run.use.adapters):
        found.append("--load_data_args needs the --ckpt_dir of a training run")
    if data.min_pixels and data.max_pixels and data.min_pixels > data.max_pixels:
        found.append(f"--min_pixels {data.min_pixels} is more than --max_pixels {data.max_pixels}")
    return found


def _answers(run: Run) -> list[str]:
    asked, found = run.generate, []
    if run.infer.top_logprobs is not None and not run.infer.logprobs:
        found.append("--top_logprobs needs --logprobs true")
    if asked.num_beams > 1 and run.infer.logprobs:
        found.append("--logprobs: not with --num_beams above 1")
    return found


def _files(run: Run) -> list[str]:
    found = [f"--plugin: no file {name!r}" for name in run.infer.plugin if not Path(name).is_file()]
    path = run.infer.result_path
    if path and Path(path).expanduser().is_dir():
        found.append(f"--result_path {path} is a folder; name a file in it, as in {path}/answers.jsonl")
    if path and re.search(r"\.(json|csv|tsv|parquet)$", path):
        found.append(f"--result_path {path}: answers are written as JSON lines; give it the ending .jsonl")
    return found
