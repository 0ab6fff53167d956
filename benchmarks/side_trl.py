"""TRL's side of train_step.py: its trainers as its documentation shows them."""

from __future__ import annotations

import argparse
from typing import Any

from channel import Channel, resident
from side import LORA, dtype, hyper, moved, precision, targets, trained


def run(side: str, options: argparse.Namespace, mode: str, channel: Channel) -> None:
    """DPOTrainer, RewardTrainer or SFTTrainer."""
    from peft import LoraConfig

    model = load(options, mode)
    after_load = resident()
    lora = LoraConfig(
        **LORA,
        target_modules=targets(options),
        task_type="SEQ_CLS" if options.kind == "rm" else "CAUSAL_LM",
    )
    made = {
        "model": model,
        "train_dataset": rows(options),
        "processing_class": processor(options),
        "peft_config": lora,
    }
    trainer = make(side, options, mode, made)
    if mode == "check":
        channel.send(
            **{"dpo": dpo_numbers, "exo": dpo_numbers, "rm": rm_numbers, "sft": sft_numbers}[options.kind](trainer)
        )
        return
    trained(trainer, side, channel, after_load)


def make(side: str, options: argparse.Namespace, mode: str, made: dict[str, Any]) -> Any:
    """The trainer of a workload's kind."""
    import trl

    batch = options.batch_size * (options.answers // 2 if options.kind == "exo" else 1)
    settings = hyper(options) | precision(mode)
    settings |= {"per_device_train_batch_size": batch, "gradient_checkpointing": mode != "off", "disable_tqdm": True}
    if options.kind == "rm":
        return trl.RewardTrainer(args=trl.RewardConfig(**settings), **made)
    if options.kind == "sft":
        if "padding-free" in side:  # which refuses to cut rows
            settings |= {"padding_free": True, "max_length": None}
        return trl.SFTTrainer(args=trl.SFTConfig(**settings), **made)
    ready = "precomputed" in side and mode != "check"
    return trl.DPOTrainer(args=trl.DPOConfig(**settings, precompute_ref_log_probs=ready), **made)


def load(options: argparse.Namespace, mode: str) -> Any:
    """The model, as the trainer's kind wants it."""
    import transformers

    kind = "AutoModelForCausalLM"
    more: dict[str, Any] = {}
    if options.picture:
        kind = "AutoModelForImageTextToText"
    elif options.kind == "rm":
        kind, more = "AutoModelForSequenceClassification", {"num_labels": 1}
    return getattr(transformers, kind).from_pretrained(options.model, dtype=dtype(mode), **more)


def rows(options: argparse.Namespace) -> Any:
    """The file's rows; pictures are decoded when a row is asked for."""
    from datasets import Image, List, load_dataset

    found = load_dataset("json", data_files=f"{options.data}/trl.jsonl", split="train")
    return found.cast_column("images", List(Image())) if options.picture else found


def processor(options: argparse.Namespace) -> Any:
    """Tokenizer, or processor of pictures."""
    import transformers

    if not options.picture:
        return transformers.AutoTokenizer.from_pretrained(options.model)
    if options.picture == "llava":
        return transformers.LlavaNextProcessor.from_pretrained(options.model)
    return image_only(transformers.InternVLProcessor).from_pretrained(options.model)


def image_only(kind: type) -> type:
    """InternVL's processor without its video half, which needs torchvision; that has no build for CPUs on PyPI.

    transformers reads a processor's parts from the argument list of __init__.
    """

    def __init__(  # noqa: N807
        self: Any,
        image_processor: Any = None,
        tokenizer: Any = None,
        image_seq_length: int = 256,
        chat_template: Any = None,
        **_: Any,
    ) -> None:
        kind.__init__(self, image_processor, tokenizer, None, image_seq_length, chat_template)

    return type(kind.__name__, (kind,), {"__init__": __init__, "__module__": kind.__module__})


# -- numbers that all sides must agree on ------------------------------------------------------------------------------


def first_batch(trainer: Any) -> dict[str, Any]:
    """The rows of the first forward pass."""
    taken = [dict(trainer.train_dataset[i]) for i in range(trainer.args.train_batch_size)]
    return trainer._prepare_inputs(trainer.data_collator(taken))


def dpo_numbers(trainer: Any) -> dict[str, Any]:
    """Through DPOTrainer's own collator, model and loss."""
    import torch

    batch = first_batch(trainer)
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    inputs = {name: value for name, value in batch.items() if name != "completion_mask"}

    def score() -> Any:
        logps = trainer.model(**inputs, labels=labels, use_cache=False, fused_lm_head=True).log_probs
        return torch.stack(logps.sum(1).chunk(2)).T

    with torch.no_grad():
        start = score().flatten().tolist()
        reference = torch.stack(trainer.compute_ref_log_probs(trainer.model, batch)).T.flatten().tolist()
    found = {"start": start, "reference": reference}
    if "prompt_ids" in trainer.train_dataset.column_names:
        parts = [f"{name}_ids" for name in ("prompt", "chosen", "rejected")]
        found["lengths"] = [[len(row[name]) for name in parts] for row in trainer.train_dataset]
    else:
        found["first_lengths"] = pair_lengths(batch["attention_mask"], batch["completion_mask"])
    return found | moved(trainer, batch, score)


def pair_lengths(mask: Any, completion: Any) -> list[list[int]]:
    """Tokens of prompt, chosen, rejected of a batch: its first half the chosen ones."""
    answers = (completion.bool() & mask.bool()).sum(1)
    prompts = (mask.sum(1) - answers).chunk(2)[0]
    chosen, rejected = answers.chunk(2)
    return [list(map(int, one)) for one in zip(prompts, chosen, rejected, strict=True)]


def rm_numbers(trainer: Any) -> dict[str, Any]:
    """Through RewardTrainer's own collator, model and loss."""
    import torch

    batch = first_batch(trainer)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}

    def score() -> Any:
        return torch.stack(trainer.model(**inputs, use_cache=False).logits.squeeze(-1).chunk(2)).T

    whole = [[len(row["chosen_ids"]), len(row["rejected_ids"])] for row in trainer.train_dataset]
    return {"whole_lengths": whole} | moved(trainer, batch, score)


def sft_numbers(trainer: Any) -> dict[str, Any]:
    """Through SFTTrainer's own collator, model and loss."""
    whole = [[len(row["input_ids"])] for row in trainer.train_dataset]
    return {"whole_lengths": whole} | moved(trainer, first_batch(trainer))
