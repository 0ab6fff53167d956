"""LLaMA-Factory's side of train_step.py: `llamafactory-cli train`, with our chat format registered."""

from __future__ import annotations

import argparse
import importlib.machinery
import json
import sys
import types
from pathlib import Path
from typing import Any

from channel import Channel, on_cuda
from common import ASSISTANT, END, USER
from side import LORA, half, hyper
from side_peers import watch

STAGES = {"dpo": "dpo", "rm": "rm", "sft": "sft"}
PLUGINS = {"llava": "llava_next", "internvl": "intern_vl"}
SCHEMAS = (  # of torchvision's operators, which its CUDA build does not bring to a torch without CUDA
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def run(side: str, options: argparse.Namespace, mode: str, channel: Channel) -> None:
    """The command's own entry point."""
    library = None if on_cuda() else declared()
    from llamafactory.data.formatter import StringFormatter
    from llamafactory.data.mm_plugin import get_mm_plugin
    from llamafactory.data.template import register_template
    from llamafactory.train.tuner import run_exp

    plugin = PLUGINS.get(options.picture)
    register_template(
        name="words",
        format_user=StringFormatter(slots=[f"{USER} {{{{content}}}} {ASSISTANT} "]),
        format_assistant=StringFormatter(slots=[f"{{{{content}}}} {END}"]),
        **({"mm_plugin": get_mm_plugin(name=plugin, image_token="<image>", video_token="<video>")} if plugin else {}),
    )
    register(options)
    watch(options, mode, channel)
    run_exp({**hyper(options), **command(options, mode)})
    del library  # operators are declared as long as it lives


def declared() -> Any:
    """Lets torchvision and torchaudio be imported, whose PyPI builds want a torch with CUDA. Nothing here calls their
    operators, and there is no sound."""
    import torch

    sys.modules["torchaudio"] = types.ModuleType("torchaudio")
    sys.modules["torchaudio"].__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)

    library = torch.library.Library("torchvision", "DEF")
    for schema in SCHEMAS:
        library.define(schema)
    return library


def register(options: argparse.Namespace) -> None:
    """dataset_info.json beside the rows."""
    columns = {"messages": "messages"}
    if options.kind != "sft":
        columns |= {"chosen": "chosen", "rejected": "rejected"}
    if options.picture:
        columns["images"] = "images"
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    rows = {"file_name": "llama-factory.jsonl", "formatting": "sharegpt", "columns": columns, "tags": tags}
    entry = {"rows": rows | {"ranking": options.kind != "sft"}}
    Path(options.data, "dataset_info.json").write_text(json.dumps(entry), encoding="utf-8")


def command(options: argparse.Namespace, mode: str) -> dict[str, Any]:
    """What only LLaMA-Factory has, or has under other names."""
    return {
        "stage": STAGES[options.kind],
        "do_train": True,
        "model_name_or_path": options.model,
        "template": "words",
        "dataset": "rows",
        "dataset_dir": options.data,
        "cutoff_len": options.max_length,
        "image_max_pixels": 10**8,  # its default would shrink pictures of many tiles, which no other side does
        "finetuning_type": "lora",
        "lora_rank": LORA["r"],
        "lora_alpha": LORA["lora_alpha"],
        "lora_dropout": 0.0,
        "lora_target": "q_proj,k_proj,v_proj",
        "pref_loss": "sigmoid",
        "disable_shuffling": True,
        "per_device_train_batch_size": options.batch_size,
        "disable_gradient_checkpointing": mode == "off",
        "bf16": half(mode),
        "use_cpu": not on_cuda(),
        "infer_dtype": "bfloat16" if half(mode) else "float32",
        "overwrite_output_dir": True,
    }
