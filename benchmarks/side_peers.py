"""What the sides of ms-swift and LLaMA-Factory share: both make a trainer themselves, watched where it starts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from channel import Channel, resident
from side import counted, in_order, moved, windows


def watch(options: argparse.Namespace, mode: str, channel: Channel) -> None:
    """Compare numbers, or train in windows, where a trainer is asked to train."""
    from transformers import Trainer

    train = Trainer.train

    def watched(trainer: Any, *args: Any, **keywords: Any) -> Any:
        after_load = resident()
        head_without_dropout(trainer.model)
        if mode == "check":
            channel.send(**numbers(trainer, options.kind))
            sys.exit(0)
        in_order(trainer)
        trainer.add_callback(windows(channel, after_load, counted(trainer)))
        train(trainer, *args, **keywords)
        sys.exit(0)  # what follows saves and draws

    Trainer.train = watched


def head_without_dropout(model: Any) -> None:
    """A value head of TRL's has a dropout of its own, which no other side has."""
    for name, module in model.named_modules():
        if "v_head" in name and type(module).__name__ == "Dropout":
            module.p = 0.0


def numbers(trainer: Any, kind: str) -> dict[str, Any]:
    """Through the trainer's own collator, model and loss: pairs are a batch's first and second half."""
    import torch

    taken = [trainer.train_dataset[i] for i in range(trainer.args.train_batch_size)]
    batch = trainer._prepare_inputs(trainer.data_collator(taken))
    found: dict[str, Any] = lengths(batch, kind)
    score: Callable[[], Any] | None = None
    if kind == "dpo":

        def score() -> Any:
            out = trainer.concatenated_forward(trainer.model, dict(batch))
            return torch.stack([out["chosen_logps"], out["rejected_logps"]]).T

        with torch.no_grad():
            found["start"] = score().flatten().tolist()
    return found | moved(trainer, batch, score)


def lengths(batch: dict[str, Any], kind: str) -> dict[str, Any]:
    """Tokens of a batch's rows."""
    mask = batch["attention_mask"]
    if kind == "rm":
        chosen, rejected = mask.sum(1).chunk(2)
        return {"first_whole": [list(map(int, one)) for one in zip(chosen, rejected, strict=True)]}
    answers = (batch["labels"] != -100).sum(1)
    if kind == "sft":
        return {"first_lengths": [list(map(int, one)) for one in zip(mask.sum(1) - answers, answers, strict=True)]}
    prompts = (mask.sum(1) - answers).chunk(2)[0]
    chosen, rejected = answers.chunk(2)
    return {"first_lengths": [list(map(int, one)) for one in zip(prompts, chosen, rejected, strict=True)]}
