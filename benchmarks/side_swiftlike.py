"""swiftlike's side of train_step.py: the command that a user types, with a callback added to the trainer it builds."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from channel import Channel, resident
from side import LORA, half, hyper, moved, windows

OBJECTIVES = {
    "dpo": {"rlhf_type": "dpo", "rpo_alpha": "none"},
    "exo": {"rlhf_type": "exo"},
    "rm": {"rlhf_type": "rm", "rm_head_bias": "false"},
    "sft": {},
}


def run(side: str, options: argparse.Namespace, mode: str, channel: Channel) -> None:
    """`swiftlike rlhf` or `swiftlike sft`."""
    from swiftlike.cli.main import main
    from swiftlike.pipelines import train

    build, policy, loaded = train.build, train.policy, []

    def watched_policy(*args: Any) -> Any:
        loaded.append((policy(*args), resident()))
        return loaded[0][0]

    def watched_build(*args: Any) -> Any:
        trainer = build(*args)
        if mode in ("check", "fill"):
            channel.send(**numbers(trainer))
            sys.exit(0)
        trainer.add_callback(
            windows(channel, loaded[0][1], trainer.seen.tolist, lambda: getattr(trainer.reference, "misses", 0))
        )
        return trainer

    train.policy, train.build = watched_policy, watched_build
    flags = {**hyper(options), **command(side, options, mode)}
    first = "sft" if options.kind == "sft" else "rlhf"
    main([first, *(word for name, value in flags.items() for word in (f"--{name}", str(value)))])


def command(side: str, options: argparse.Namespace, mode: str) -> dict[str, Any]:
    """The flags that only swiftlike has."""
    flags = {
        "model": options.model,
        "template": "chat_template",
        "dataset": f"{options.data}/swiftlike.jsonl",
        "dataset_test_ratio": 0,
        "dataset_shuffle": "false",
        "batch_size": options.batch_size,
        "torch_dtype": "bfloat16" if half(mode) else "float32",
        "lora_rank": LORA["r"],
        "lora_alpha": LORA["lora_alpha"],
        "lora_dropout": 0,
        "gradient_checkpointing": "false" if mode == "off" else "true",
        **OBJECTIVES[options.kind],
    }
    if options.kind in ("dpo", "exo"):
        flags["ref_logps"] = "live" if side.endswith("live") else "cache"
    if options.kind == "exo":
        flags["num_contrastive"] = options.answers
    if " split" in side:
        flags["layout"] = "split"
    return flags


def numbers(trainer: Any) -> dict[str, Any]:
    """Through the pipeline's own collator, scorer, reference and loss. The store is filled on the way."""
    import torch

    from swiftlike.data.collate import Item

    groups, size = trainer.train_dataset.groups, trainer.args.train_batch_size
    dataset = trainer.train_dataset
    first = [Item(group, _pixels(dataset, group)) for group in groups[:size]]
    batch = trainer._prepare_inputs(trainer.data_collator(first))
    lengths = [[len(one.prompt.ids), *(len(answer.ids) for answer in one.completions)] for one in groups]
    found: dict[str, Any] = {"lengths": lengths}

    def score() -> Any:
        return _score(trainer, batch)

    with torch.no_grad():
        if trainer.card.record != "rewards":
            found["start"] = score().flatten().tolist()
        if trainer.reference is not None:
            found["reference"] = trainer.reference(trainer.model, batch).flatten().tolist()
            for i in range(size, len(groups), size):
                items = [Item(group, _pixels(dataset, group)) for group in groups[i : i + size]]
                trainer.reference(trainer.model, trainer._prepare_inputs(trainer.data_collator(items)))
    return found | moved(trainer, batch, score)


def _pixels(dataset: Any, group: Any) -> tuple[Any, ...]:
    return tuple(dataset.pixels(image) for image in group.images) if dataset.pixels else ()


def _score(trainer: Any, batch: dict[str, Any]) -> Any:
    """Log-probabilities, or rewards, of the policy [B, K]."""
    from swiftlike.models.logps import group_logps, model_inputs
    from swiftlike.models.reward_head import group_rewards, reward_inputs

    if trainer.card.record == "rewards":
        return group_rewards(trainer.model(**reward_inputs(batch)), batch)
    return group_logps(trainer.model(**model_inputs(batch)), batch)["policy"]
