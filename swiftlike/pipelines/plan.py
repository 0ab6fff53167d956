"""What a run will do and need, worked out from shapes: `--dry_run`, and the lines every run starts with."""

from __future__ import annotations

import dataclasses as dc
import math
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

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


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
            f"estimated peak memory per device: {amount(self.peak)} ({parts})",
            f"estimated disk for kept checkpoints: {amount(self.disk)}",
        ]


def make_plan(run: Run, checkpoint: Checkpoint, card: LossCard, groups: Packed) -> Plan:
    """Build the model without weights and count."""
    model = skeleton(checkpoint.config)
    whole = sum(p.numel() for p in model.parameters())
    if run.tuner.sft_type == "lora":
        model = _with_lora(model, run, checkpoint, card)
    else:
        freeze(model, checkpoint.source.card, run.tuner)
    if is_reward(card):
        freeze_language_head(base_of(model))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if is_reward(card):
        trainable += hidden_size(base_of(model))
    state = 16 if run.tuner.sft_type == "lora" else 12  # gradient and Adam moments in float32; LoRA's weights too
    train = run.train
    kept = train.num_save_checkpoint or train.save_total_limit or total_steps(run, len(groups)) // 50 + 1
    saved = (trainable if run.tuner.sft_type == "lora" else whole) * 12  # weights and Adam moments
    return Plan(
        parameters=whole,
        trainable=trainable,
        steps=total_steps(run, len(groups)),
        groups=len(groups),
        tokens={name: quantiles(values) for name, values in lengths(groups, checkpoint).items()},
        memory=_memory(run, checkpoint, card, groups, {"whole": whole, "state": trainable * state}),
        disk=kept * saved,
    )


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


def _memory(
    run: Run, checkpoint: Checkpoint, card: LossCard, groups: Packed, weights: dict[str, int]
) -> dict[str, int]:
    """Weights (with a second copy where the reference needs one), gradients and optimiser, activations of the largest
    batch, one chunk of logits. Activations follow the usual count of 34 hidden sizes per token and layer, of which
    gradient checkpointing keeps one per layer and all of a single layer."""
    text = checkpoint.config.get_text_config()
    width = BYTES[run.model.torch_dtype]
    second = card.needs_reference(run.loss) and (
        run.tuner.sft_type == "full" or run.rlhf.ref_model or run.rlhf.ref_model_type
    )
    copies = 2 if second else 1
    full = run.tuner.sft_type == "full"
    per_weight = 4 if full else {0: width, 8: 1, 4: 0.55}[run.model.quant_bits]
    shared = checkpoint.layout == "shared"
    sizes = groups.shared_lengths if shared else groups.longest * groups.sizes
    tokens = int(sizes.max(initial=0)) * run.train.batch_size
    layers, hidden = text.num_hidden_layers, text.hidden_size
    recomputed = math.ceil(layers / run.train.checkpointing_every_n_layers) if run.train.gradient_checkpointing else 0
    kept = recomputed + 34 * (layers - recomputed + (recomputed > 0))  # one of the recomputed layers at a time is whole
    devices = max(world_size(), 1) if run.train.deepspeed in ("zero3", "zero3_offload") or run.train.fsdp else 1
    return {
        "weights": int(weights["whole"] * per_weight * copies / devices),
        "gradients and optimiser": weights["state"] // devices,
        "activations": tokens * hidden * kept * width,
        "logits": 0 if is_reward(card) else min(run.train.logprob_chunk, tokens) * text.vocab_size * 4 * 2,
    }


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
