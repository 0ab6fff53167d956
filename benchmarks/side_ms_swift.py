"""ms-swift's side of train_step.py: `swift rlhf` and `swift sft`, with our chat format registered as a plugin would."""

from __future__ import annotations

import argparse
from typing import Any

from channel import Channel, on_cuda
from common import ASSISTANT, END, USER
from side import LORA, half, hyper, targets
from side_peers import watch

TYPES = {"": "llama", "llava": "llava1_6_mistral_hf", "internvl": "internvl"}
CLASSES = {"llava": "Llava1_6HfTemplate", "internvl": "InternvlhfTemplate"}


def run(side: str, options: argparse.Namespace, mode: str, channel: Channel) -> None:
    """The command's own entry point."""
    from swift.pipelines import rlhf_main, sft_main
    from swift.template import TemplateMeta, register_template

    shape: dict[str, Any] = {}
    if options.picture:
        from swift.template.templates import internvl, llava

        shape["template_cls"] = getattr(
            {"llava": llava, "internvl": internvl}[options.picture], CLASSES[options.picture]
        )
        if options.picture == "internvl":
            without_video()
    register_template(
        TemplateMeta(
            "words", prefix=[], prompt=[f"{USER} {{{{QUERY}}}} {ASSISTANT} "], chat_sep=[f" {END}"], suffix=[f" {END}"],
            **shape,
        )
    )  # fmt: skip
    watch(options, mode, channel)
    flags = {**hyper(options), **command(options, mode)}
    words = [word for name, value in flags.items() for word in (f"--{name}", *_words(value))]
    (sft_main if options.kind == "sft" else rlhf_main)(words)


def _words(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def command(options: argparse.Namespace, mode: str) -> dict[str, Any]:
    """The flags that only ms-swift has, or has under other names."""
    wanted = targets(options)
    return {
        **({} if options.kind == "sft" else {"rlhf_type": options.kind}),
        "model": options.model,
        "model_type": TYPES[options.picture],
        "template": "words",
        "dataset": f"{options.data}/ms-swift.jsonl",
        "split_dataset_ratio": 0,
        "dataset_shuffle": "false",
        "train_dataloader_shuffle": "false",
        "use_hf": "true",
        "tuner_type": "lora",
        "lora_rank": LORA["r"],
        "lora_alpha": LORA["lora_alpha"],
        "lora_dropout": 0,
        **({"target_regex": wanted} if isinstance(wanted, str) else {"target_modules": wanted}),
        "per_device_train_batch_size": options.batch_size,
        "gradient_checkpointing": "false" if mode == "off" else "true",
        "torch_dtype": "bfloat16" if half(mode) else "float32",
        "use_cpu": "false" if on_cuda() else "true",
        "bf16": "true" if half(mode) else "false",
        "fp16": "false",
        "add_version": "false",
        "eval_strategy": "no",
    }


def without_video() -> None:
    """InternVL's processor without its video half, which needs torchvision."""
    import transformers
    from side_trl import image_only

    whole = transformers.InternVLProcessor
    transformers.AutoProcessor.from_pretrained = classmethod(
        lambda _, folder, **__: image_only(whole).from_pretrained(folder)
    )
