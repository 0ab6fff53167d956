"""What flags leave open is decided here, once, and said aloud; and flags become TrainingArguments."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch

from swiftlike.core.errors import UserError
from swiftlike.core.log import world_size
from swiftlike.core.merge import Run
from swiftlike.core.secrets import scrub
from swiftlike.models.load import choose_dtype
from swiftlike.pipelines.sharding import connect, engine

_SAME = """
num_train_epochs max_steps gradient_accumulation_steps learning_rate lr_scheduler_type weight_decay adam_beta1
adam_beta2 adam_epsilon max_grad_norm optim seed logging_steps logging_first_step save_strategy
save_total_limit save_only_model load_best_model_at_end dataloader_num_workers ignore_data_skip
ddp_timeout push_to_hub hub_model_id hub_private_repo
"""  # our names that are also TrainingArguments fields
_CURVES = os.environ.get("TENSORBOARD_LOGGING_DIR")  # the user's own, not that of an earlier run in this process
STEP = 16  # groups that an optimiser step is filled up to by default


def seeded(run: Run) -> Run:
    """The run with its data seed decided, which reading the rows needs already."""
    return run if run.data.dataset_seed is not None else run.replace("derived", dataset_seed=run.train.seed)


def derive(run: Run, pictures: bool) -> Run:
    """The run with every open value decided. `pictures`: whether any row has one."""
    train, full = run.train, run.tuner.sft_type == "full"
    values: dict[str, Any] = {}
    if train.gradient_accumulation_steps is None:
        values["gradient_accumulation_steps"] = max(1, math.ceil(STEP / (train.batch_size * world_size())))
    if train.learning_rate is None:
        values["learning_rate"] = 1e-5 if full else 1e-4
    if train.eval_batch_size is None:
        values["eval_batch_size"] = train.batch_size
    if train.eval_steps is None:
        values["eval_steps"] = 200 if full else 50
    if train.save_steps is None:
        values["save_steps"] = values.get("eval_steps", train.eval_steps)
    if train.num_save_checkpoint is not None:
        values["save_total_limit"] = None
    if run.model.torch_dtype == "auto":
        described = bool(train.gpus or train.gpu_memory)  # cards that are not here: they can
        values["torch_dtype"] = "bfloat16" if described else str(choose_dtype("auto")).removeprefix("torch.")
    if run.origin.get("dataloader_num_workers", "default") == "default" and (not pictures or run.data.streaming):
        values["dataloader_num_workers"] = 0  # rows are tokens already: a worker would only copy them
    return run.replace("derived", **values) if values else run


def total_steps(run: Run, rows: int) -> int:
    """Optimiser steps of a run over `rows` groups."""
    if run.train.max_steps > 0:
        return run.train.max_steps
    batches = math.ceil(rows / (run.train.batch_size * world_size()))
    per_epoch = max(1, math.ceil(batches / run.train.gradient_accumulation_steps))
    return math.ceil(per_epoch * run.train.num_train_epochs)


def spaced_steps(run: Run, rows: int) -> tuple[int, ...]:
    """The optimiser steps after which `--num_save_checkpoint` saves; none without it. UserError when there are fewer
    steps than checkpoints."""
    count, steps = run.train.num_save_checkpoint or 0, total_steps(run, rows)
    if count > steps:
        raise UserError(
            f"--num_save_checkpoint {count}: this run has {steps} optimiser steps only",
            hint="ask for fewer, or for more steps: --num_train_epochs, or a smaller --gradient_accumulation_steps",
        )
    return tuple(steps * k // count for k in range(1, count + 1))


def interval(value: float, steps: int) -> int:
    """`--eval_steps 0.2` is a share of the run."""
    return max(1, math.ceil(value * steps)) if value < 1 else int(value)


def training_arguments(run: Run, folder: Path, steps: int, evaluates: bool, vision_trained: bool) -> Any:
    """transformers.TrainingArguments of a run whose open values are decided."""
    from transformers import TrainingArguments

    train = run.train
    os.environ["TENSORBOARD_LOGGING_DIR"] = _CURVES or str(folder / "runs")
    if train.hub_token:  # not a field: transformers writes those into every checkpoint (training_args.bin)
        os.environ["HF_TOKEN"] = train.hub_token
    half = {"bf16": run.model.torch_dtype == "bfloat16", "fp16": run.model.torch_dtype == "float16"}
    if half["fp16"] and not torch.cuda.is_available():
        raise UserError("--torch_dtype float16 needs a GPU", hint="use bfloat16 or float32 on a CPU")
    values = {name: getattr(train, name) for name in _SAME.split()} | half
    values |= {
        "output_dir": str(folder),
        "run_name": train.run_name and scrub(train.run_name),
        "per_device_train_batch_size": train.batch_size,
        "per_device_eval_batch_size": train.eval_batch_size,
        "eval_strategy": train.eval_strategy if evaluates else "no",
        "eval_steps": interval(train.eval_steps, steps),
        "save_steps": interval(train.save_steps, steps),
        "warmup_steps": train.warmup_steps or math.ceil(train.warmup_ratio * steps),
        "report_to": train.report_to or "none",
        "data_seed": run.data.dataset_seed,
        "use_cpu": not torch.cuda.is_available() or run.model.device_map == "cpu",
        "ddp_find_unused_parameters": vision_trained,
        "remove_unused_columns": False,
        "label_names": [],
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
        "metric_for_best_model": "loss" if evaluates else None,
        "greater_is_better": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    if run.data.streaming:  # every rank reads the stream and takes its turns; groups cannot be sent between ranks
        values["accelerator_config"] = {"dispatch_batches": False}
    values |= _recompute(train) | engine(run)
    try:
        arguments = TrainingArguments(**(values | dict(run.hf)))
    except (ValueError, ImportError, RuntimeError) as error:
        raise UserError(
            f"transformers refuses these flags: {(str(error).strip() or repr(error)).splitlines()[0]}"
        ) from error
    connect(run.train)
    return arguments


def _recompute(train: Any) -> dict[str, Any]:
    """Gradient checkpointing under the name that this transformers has for it (renamed in 5.23)."""
    from transformers import TrainingArguments

    if train.activation_offloading and not torch.cuda.is_available():
        raise UserError("--activation_offloading moves activations from the GPU to memory; there is no GPU")
    new = "activation_checkpointing" in TrainingArguments.__dataclass_fields__
    name = "activation_checkpointing" if new else "gradient_checkpointing"
    how = {"every_n_layers": train.checkpointing_every_n_layers, "offload": train.activation_offloading}
    return {name: train.gradient_checkpointing, f"{name}_kwargs": {"use_reentrant": False} | how}
