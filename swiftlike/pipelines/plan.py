"""What a run will do and need, worked out from shapes: `--dry_run`, and the lines every run starts with."""

from __future__ import annotations

import dataclasses as dc
from typing import Any

from swiftlike.core.devices import amount
from swiftlike.core.log import world_size
from swiftlike.core.merge import Run
from swiftlike.data.packed import Packed
from swiftlike.losses.base import LossCard
from swiftlike.models.load import skeleton
from swiftlike.models.reward_head import base_of, freeze_language_head, hidden_size
from swiftlike.models.tuning import add_lora, freeze
from swiftlike.pipelines.prepare import Checkpoint
from swiftlike.pipelines.preview import lengths, quantiles
from swiftlike.pipelines.rewards import is_reward
from swiftlike.pipelines.settings import total_steps


@dc.dataclass(frozen=True, kw_only=True)
class Plan:
    """Counts of a run. Memory in bytes per device, disk in bytes."""

    parameters: int
    trainable: int
    steps: int
    groups: int
    tokens: dict[str, dict[str, int]]
    memory: dict[str, int]
    disk: int

    @property
    def peak(self) -> int:
        """Estimated peak memory of one device."""
        return sum(self.memory.values())

    def lines(self) -> list[str]:
        """For people."""
        share = 100 * self.trainable / max(self.parameters, 1)
        parts = ", ".join(f"{name} {amount(size)}" for name, size in self.memory.items())
        tokens = [f"{name} tokens: p50 {q['p50']}, p95 {q['p95']}, max {q['max']}" for name, q in self.tokens.items()]
        return [
            f"parameters: {self.parameters:,}, trained: {self.trainable:,} ({share:.3f} %)",
            f"training groups: {self.groups:,}, optimiser steps: {self.steps:,}",
            *tokens,
            *([f"estimated peak memory per device: {amount(self.peak)} ({parts})"] if self.memory else []),
            f"estimated disk for kept checkpoints: {amount(self.disk)}",
        ]


def make_plan(run: Run, checkpoint: Checkpoint, card: LossCard, groups: Packed, memory: dict[str, int]) -> Plan:
    """Build the model without weights and count. `memory` is what one device needs, empty where nobody asks."""
    whole, model = tuned(run, checkpoint, card, checkpoint.config)
    trainable = trained(model, card)
    train = run.train
    kept = train.num_save_checkpoint or train.save_total_limit or total_steps(run, len(groups)) // 50 + 1
    saved = (trainable if run.tuner.sft_type == "lora" else whole) * 12  # weights and Adam moments
    return Plan(
        parameters=whole,
        trainable=trainable,
        steps=total_steps(run, len(groups)),
        groups=len(groups),
        tokens={name: quantiles(values) for name, values in lengths(groups, checkpoint).items()},
        memory=memory,
        disk=kept * saved,
    )


def tuned(run: Run, checkpoint: Checkpoint, card: LossCard, config: Any) -> tuple[int, Any]:
    """Weights of the bare model, and the model without weights with what is trained of it."""
    model = skeleton(config)
    whole = sum(p.numel() for p in model.parameters())
    if run.tuner.sft_type == "lora":
        model = _with_lora(model, run, checkpoint, card)
    else:
        freeze(model, checkpoint.source.card, run.tuner)
    if is_reward(card):
        freeze_language_head(base_of(model))
    return whole, model


def trained(model: Any, card: LossCard) -> int:
    """Weights that learn, a reward model's head among them."""
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return count + (hidden_size(base_of(model)) if is_reward(card) else 0)


def _with_lora(model: Any, run: Run, checkpoint: Checkpoint, card: LossCard) -> Any:
    """The skeleton with the adapter it will have: of that shape where training continues one, else of these flags."""
    if continued := continued_adapter(run):
        from peft import PeftConfig, get_peft_model

        return get_peft_model(model, dc.replace(PeftConfig.from_pretrained(continued), inference_mode=False))
    bare = dc.replace(run.tuner, init_lora_weights="true")  # pissa and the like need weights
    return add_lora(model, checkpoint.source.card, bare, dropout=card.dropout)


def continued_adapter(run: Run) -> str | None:
    """The adapter whose weights and shape training starts from, None when it starts with a new one."""
    if run.train.resume_only_model:
        return run.train.resume_from_checkpoint
    return run.tuner.adapters[0] if run.tuner.adapters else None


def _lora_words(run: Run) -> str:
    """`LoRA rank 8 on DEFAULT`, read from the adapter itself where training continues one."""
    tuner, continued = run.tuner, continued_adapter(run)
    if continued is None:
        return f"LoRA rank {tuner.lora_rank} on {tuner.lora_target_regex or ' '.join(tuner.lora_target_modules)}"
    from peft import PeftConfig

    shape = PeftConfig.from_pretrained(continued)
    targets = shape.target_modules
    named = targets if isinstance(targets, str) else " ".join(sorted(targets or ()))
    return f"LoRA rank {shape.r} on {named}, continued from {continued}"


def headline(run: Run, checkpoint: Checkpoint, card: LossCard) -> list[str]:
    """What is trained, in words: the first lines of every run."""
    tuner, train = run.tuner, run.train
    how = _lora_words(run) if tuner.sft_type == "lora" else "all weights"
    dropout = (
        "as configured" if card.dropout else "off" + " (two log-probabilities are compared)" * (not is_reward(card))
    )
    source, ranks = checkpoint.source, world_size()
    step = train.batch_size * train.gradient_accumulation_steps * ranks
    made = f"{train.batch_size} x {train.gradient_accumulation_steps} accumulated x {ranks} ranks"
    return [
        f"model = {source.name} ({source.id or source.folder}), template {source.template}",
        f"loss = {card.words(run.loss)}",
        f"training {how}, {run.model.torch_dtype}, attention {checkpoint.attention}, dropout {dropout}",
        f"step = {step} groups ({made}), learning rate {train.learning_rate:g}",
        f"layout = {checkpoint.layout}: {checkpoint.layout_reason}",
    ]


def as_json(plan: Plan) -> dict[str, Any]:
    """For programs."""
    return dc.asdict(plan) | {"peak": plan.peak}
