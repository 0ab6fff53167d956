"""What only several values together show to be wrong, and what is missing. Each function gives a list of problems."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from swiftlike.core.merge import Run

_NO_MODEL = (
    "--model is missing: an id, a folder or a registered name, as in --model Qwen/Qwen2.5-0.5B-Instruct or "
    "--model_type qwen2_5-0_5b-instruct (see `swiftlike list models`)"
)
_NO_DATA = (
    "--dataset is missing: a name, a hub id or a file, as in --dataset rlaif-v#1000 or --dataset pairs.jsonl "
    "(see `swiftlike list datasets`)"
)


def training(run: Run) -> list[str]:
    """Problems of a training command."""
    missing = [] if run.model.model or run.model.model_type or run.train.resume_from_checkpoint else [_NO_MODEL]
    return missing + data(run) + _files(run) + _tuner(run) + _train(run) + _loss(run)


def data(run: Run) -> list[str]:
    """Problems of the data section, and code of strangers."""
    rows, problems = run.data, [] if run.data.dataset else [_NO_DATA]
    if run.model.trust_remote_code:
        problems.append(
            "--trust_remote_code true: code from a hub is never run; use a checkpoint whose architecture transformers "
            "has itself, or add the family in a --plugin"
        )
    if rows.interleave_prob and len(rows.interleave_prob) != len(rows.dataset):
        problems.append(f"--interleave_prob has {len(rows.interleave_prob)} numbers for {len(rows.dataset)} data sets")
    if rows.interleave_prob and abs(sum(rows.interleave_prob) - 1) > 1e-6:
        problems.append(f"--interleave_prob adds up to {sum(rows.interleave_prob):g}, not 1")
    if rows.min_pixels and rows.max_pixels and rows.min_pixels > rows.max_pixels:
        problems.append(f"--min_pixels {rows.min_pixels} is more than --max_pixels {rows.max_pixels}")
    return problems


def _files(run: Run) -> list[str]:
    folder = run.train.resume_from_checkpoint
    problems = [] if folder is None or Path(folder).is_dir() else [f"--resume_from_checkpoint: no folder {folder!r}"]
    if run.train.resume_only_model and folder is None:
        problems.append("--resume_only_model needs --resume_from_checkpoint")
    if run.train.ignore_data_skip and folder is None:
        problems.append("--ignore_data_skip needs --resume_from_checkpoint")
    return problems


def _tuner(run: Run) -> list[str]:
    tuner, problems = run.tuner, []
    if tuner.sft_type == "full":
        lora_only = [f"--{flag}" for flag in _given(run, "lora_", "use_dora", "use_rslora", "modules_to_save")]
        if lora_only:
            problems.append(f"{', '.join(lora_only)}: only for --sft_type lora, not full")
        if run.model.quant_bits:
            problems.append("--quant_bits: quantised weights cannot be trained in full; use --sft_type lora")
    if tuner.lora_target_regex and _given(run, "lora_target_modules"):
        problems.append("--lora_target_regex and --lora_target_modules both say which layers; give one of them")
    return problems


def _given(run: Run, *starts: str) -> list[str]:
    return [flag for flag, source in run.origin.items() if flag.startswith(starts) and source != "default"]


def _train(run: Run) -> list[str]:
    train, problems = run.train, []
    if run.data.streaming and train.max_steps < 1:
        problems.append("--streaming needs --max_steps: the number of rows is not known")
    if run.data.streaming and train.dataloader_num_workers and _given(run, "dataloader_num_workers"):
        problems.append("--dataloader_num_workers: a stream is read by the training process itself; give 0 or nothing")
    if train.deepspeed and train.fsdp:
        problems.append("--deepspeed and --fsdp both shard the model; give one of them")
    if (train.load_best_model_at_end or train.early_stop_interval) and train.eval_strategy == "no":
        problems.append("--load_best_model_at_end and --early_stop_interval need --eval_strategy steps or epoch")
    missing: list[Any] = [name for name in train.plugin if not Path(name).is_file()]
    return problems + [f"--plugin: no file {name!r}" for name in missing]


def _loss(run: Run) -> list[str]:
    """An objective's arguments may look over themselves."""
    look: Callable[[], list[str]] = getattr(run.loss, "problems", list)
    return look()
