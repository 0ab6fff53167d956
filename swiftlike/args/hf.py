"""TrainingArguments fields that are not ours: names and types from the source text of transformers, never imported."""

from __future__ import annotations

import ast
import functools
import importlib.util
from pathlib import Path
from typing import Any

from swiftlike.core.coerce import coerce, is_none

# fields that training sets itself: accepting them would break it or do nothing
MANAGED = {
    "remove_unused_columns": "rows keep every column that their encoding needs",
    "label_names": "labels are part of a row's encoding",
    "include_for_metrics": "metrics come from the objective",
    "local_rank": "set NPROC_PER_NODE; torchrun numbers the processes",
    "do_train": "training is what this command does",
    "do_predict": "predictions are not part of training",
    "neftune_noise_alpha": "noise in the embeddings is not supported (yet)",
    "use_liger_kernel": "logits are already computed only where they count, in chunks of --logprob_chunk",
    "gradient_checkpointing_kwargs": "set --gradient_checkpointing",
    "use_cache": "no cache is kept in training",
    "label_smoothing_factor": "use the objective's own --label_smoothing",
    "auto_find_batch_size": "set --batch_size; --dry_run shows what fits",
    "activation_checkpointing": "set --gradient_checkpointing",
    "activation_checkpointing_kwargs": "set --gradient_checkpointing",
    "dataloader_drop_last": "the last batch of an epoch is trained on, however short",
    "dataloader_in_order": "the order of the rows is part of a run",
    "train_sampling_strategy": "batches are made of rows of like length; see --dataset_shuffle",
    "length_column_name": "batches are made of rows of like length",
    "accelerator_config": "the data loader divides an optimiser step over the cards itself",
    "average_tokens_across_devices": "a loss is always averaged over all cards",
    "liger_kernel_config": "logits are already computed only where they count, in chunks of --logprob_chunk",
    "include_num_input_tokens_seen": "logging.jsonl counts tokens as they are computed",
    "do_eval": "set --eval_strategy",
    "prediction_loss_only": "evaluation gives loss and metrics of the whole set",
    "batch_eval_metrics": "evaluation gives loss and metrics of the whole set",
    "eval_do_concat_batches": "evaluation keeps no predictions",
    "eval_accumulation_steps": "evaluation keeps no predictions",
    "eval_use_gather_object": "evaluation keeps no predictions",
    "bf16_full_eval": "evaluation runs in --torch_dtype",
    "fp16_full_eval": "evaluation runs in --torch_dtype",
}
# what --report_to takes -> the packages any of which does it; "all": those that are installed
TRACKERS: dict[str, tuple[str, ...]] = {
    "all": (),
    "azure_ml": ("azureml",),
    "clearml": ("clearml",),
    "codecarbon": ("codecarbon",),
    "comet_ml": ("comet_ml",),
    "dagshub": ("dagshub",),
    "dvclive": ("dvclive",),
    "flyte": ("flytekit",),
    "kubeflow": ("kubeflow",),
    "mlflow": ("mlflow",),
    "neptune": ("neptune",),
    "swanlab": ("swanlab",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}
# presets of --deepspeed, which also takes a file -> DeepSpeed's stage
ZERO = {"zero0": 0, "zero1": 1, "zero2": 2, "zero3": 3, "zero2_offload": 2, "zero3_offload": 3}
# words of --fsdp -> fields of transformers' fsdp_config
FSDP: dict[str, dict[str, bool]] = {
    "fsdp2": {"reshard_after_forward": True},
    "full_shard": {"reshard_after_forward": True},
    "shard_grad_op": {"reshard_after_forward": False},
    "offload": {"cpu_offload": True},
    "auto_wrap": {},  # FSDP2 always does
}
_KINDS: tuple[tuple[str, Any], ...] = (
    ("bool", bool),
    ("int", int),
    ("float", float),
    ("dict", dict[str, Any]),
    ("list", list[str]),
    ("str", str),
)


@functools.cache
def fields() -> dict[str, str]:
    """Field name -> annotation as written. Empty when transformers is not installed."""
    body = _body("training_args.py", "TrainingArguments")
    declared = [node for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    return {node.target.id: ast.unparse(node.annotation) for node in declared if isinstance(node.target, ast.Name)}


def schedules() -> tuple[str, ...]:
    """What --lr_scheduler_type takes. Empty when transformers is not installed."""
    return _members("trainer_utils.py", "SchedulerType")


def optimisers() -> tuple[str, ...]:
    """What --optim takes. Empty when transformers is not installed."""
    return _members("training_args.py", "OptimizerNames")


def _members(file: str, name: str) -> tuple[str, ...]:
    """Values of an enumeration of words."""
    values = [node.value for node in _body(file, name) if isinstance(node, ast.Assign)]
    return tuple(value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str))


def _body(file: str, name: str) -> list[ast.stmt]:
    """The statements of a class of transformers; none when it is not installed, or has no such class."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return []
    source = Path(spec.origin).with_name(file).read_text(encoding="utf-8")
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    return next((node.body for node in classes if node.name == name), [])


def read(name: str, raw: Any) -> Any:
    """`raw` as the type of that field. KeyError: no such field. ValueError: not ours to set, or another type."""
    kind = fields()[name]
    if name in MANAGED:
        raise ValueError(f"is set by training itself: {MANAGED[name]}")
    words = {part.strip().partition("[")[0] for part in kind.split("|")}
    if "None" in words and is_none(raw):
        return None
    known = [reader for word, reader in _KINDS if word in words]
    for reader in known or [str]:
        if isinstance(raw, list) and len(raw) == 1 and reader != list[str]:
            raw = raw[0]
        try:
            return coerce(reader, raw)
        except ValueError as error:
            reason = error
    raise ValueError(str(reason))
