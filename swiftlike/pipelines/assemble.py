"""The model of a run and the reference it is compared with."""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path
from typing import Any

import torch

from swiftlike.core.cache import cache_folder
from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run
from swiftlike.losses.base import LossCard
from swiftlike.models.features import look_once
from swiftlike.models.load import (
    DTYPES,
    NATIVE,
    fit_separator,
    load_config,
    load_model,
    locate,
    quantization,
    weight_dtype,
)
from swiftlike.models.logps import add_scoring
from swiftlike.models.placement import device_map, local_processes
from swiftlike.models.reference import AdapterOff, FrozenCopy, OtherAdapter, Reference, Stored, fingerprint
from swiftlike.models.reward_files import is_classifier, load_trunk
from swiftlike.models.tuning import add_lora, freeze, load_reference_adapter, no_dropout
from swiftlike.pipelines.prepare import Checkpoint
from swiftlike.pipelines.rewards import add_reward_head, is_reward


def policy(run: Run, checkpoint: Checkpoint, card: LossCard, folder: Path) -> Any:
    """The model to train, able to score tokens, with what is frozen frozen."""
    source = dc.replace(checkpoint.source, folder=folder)
    if run.train.resume_only_model and run.tuner.sft_type == "full":
        source = dc.replace(source, folder=Path(run.train.resume_from_checkpoint), loader=NATIVE)
    if not is_reward(card):
        _must_have_language_head(source.folder)
    with torch.random.fork_rng(devices=[]):  # ZeRO-3 draws while it loads, and an adapter shall start as anywhere else
        model = (load_trunk if is_reward(card) else load_model)(source, **_keywords(run, checkpoint, checkpoint.config))
    fit_separator(model, checkpoint.tokenizer)
    # transformers would make all embeddings need gradients for gradient checkpointing, and backward pass through frozen
    # towers; the kind of checkpointing that we use (not reentrant) does not want it
    model.enable_input_require_grads = lambda: None
    if checkpoint.adapter is not None:  # --max_image_tokens narrows what the model may expect of a picture
        same_tiles(model.config, checkpoint.config)
        if run.tuner.sft_type == "lora" and card.needs_reference(run.loss):
            look_once(model)
    add_scoring(model, run.train.logprob_chunk, card.temperature(run.loss))
    if run.tuner.sft_type == "full":
        freeze(model, source.card, run.tuner)
    else:
        adapters = [run.train.resume_from_checkpoint] if run.train.resume_only_model else run.tuner.adapters
        tuner = dc.replace(run.tuner, adapters=adapters)
        if run.model.quant_bits:
            from peft import prepare_model_for_kbit_training

            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        model = add_lora(model, source.card, tuner, dropout=card.dropout)
        start = run.tuner.ref_adapters or run.tuner.adapters
        if start and card.needs_reference(run.loss):
            load_reference_adapter(model, start[0])
    if not card.dropout:
        no_dropout(model)
    if is_reward(card):
        add_reward_head(model, run, source.folder)
    return model


def _must_have_language_head(folder: Path) -> None:
    if is_classifier(folder):
        raise UserError(
            f"{folder} is a sequence classifier (a reward model): it has no language-model head",
            hint="name the model that it was trained from; a reward model is trained further with --rlhf_type rm",
        )


def _keywords(run: Run, checkpoint: Checkpoint, config: Any) -> dict[str, Any]:
    dtype = DTYPES[run.model.torch_dtype]
    sharded = bool(run.train.fsdp) or (run.train.deepspeed or "").startswith("zero3")
    kept = weight_dtype(dtype, run.tuner.sft_type == "full")
    return {
        "dtype": kept,
        "attn_implementation": checkpoint.attention,
        **device_map(run.model, config, kept, sharded),
        **quantization(run.model.quant_bits, run.model.quant_method, dtype),
        **run.model.model_kwargs,
    }


def same_tiles(config: Any, planned: Any) -> None:
    """A model's pictures may take the tiles that its adapter plans with, and no others."""
    if hasattr(planned, "image_grid_pinpoints"):
        config.image_grid_pinpoints = planned.image_grid_pinpoints


def make_reference(run: Run, checkpoint: Checkpoint, card: LossCard, folder: Path) -> Reference | None:
    """The frozen policy that the objective compares with, its numbers kept on disk unless `--ref_logps live`."""
    if not card.needs_reference(run.loss):
        return None
    adapters = [Path(one) for one in (run.tuner.ref_adapters or run.tuner.adapters)[:1]]
    folders = [folder, *adapters]
    other = run.rlhf.ref_model or run.rlhf.ref_model_type or run.tuner.sft_type == "full"
    if other or (not adapters and changes_base(run.tuner)):
        inner, copied = _second_model(run, checkpoint, card)
        folders = [copied]
    else:
        inner = OtherAdapter() if adapters else AdapterOff()
    if run.train.ref_logps == "live":
        return inner
    how = {
        "format": 1,  # of the numbers: raise it when the same settings come to mean others
        "full": run.tuner.sft_type == "full",
        **{"dtype": run.model.torch_dtype, "attention": checkpoint.attention, "bits": run.model.quant_bits},
        **{"options": run.model.model_kwargs, "pictures": checkpoint.adapter and dc.astuple(checkpoint.adapter.budget)},
        "temperature": card.temperature(run.loss),
    }
    try:
        cache: Path | None = cache_folder("ref_logps") / f"{fingerprint(folders, **how)}.sqlite"
    except UserError:
        cache = None
    return Stored(inner, cache)


def changes_base(tuner: Any) -> bool:
    """Whether a fresh adapter leaves the base another model even when it is switched off: trained biases, and starts
    that move a part of the weights into the adapter (pissa, olora, loftq ...)."""
    plain = str(tuner.init_lora_weights).lower() in ("true", "false", "gaussian")
    return not plain or tuner.lora_bias != "none"


def _second_model(run: Run, checkpoint: Checkpoint, card: LossCard) -> tuple[Reference, Path]:
    """A frozen copy of `--ref_model`, or of the model that training starts from, and its folder."""
    model, rlhf = run.model, run.rlhf
    if rlhf.ref_model or rlhf.ref_model_type:
        named = {"model": rlhf.ref_model or "", "model_type": rlhf.ref_model_type}
        model = dc.replace(model, model_revision=rlhf.ref_model_revision, **named)
    source = locate(model)
    _must_have_language_head(source.folder)
    copy = load_model(source, **_keywords(run, checkpoint, load_config(source)))
    fit_separator(copy, checkpoint.tokenizer)
    add_scoring(copy, run.train.logprob_chunk, card.temperature(run.loss))
    no_dropout(copy)
    return FrozenCopy(_on_device(copy)), source.folder


def _on_device(model: Any) -> Any:
    if torch.cuda.is_available() and not getattr(model, "hf_device_map", None):
        return model.to(f"cuda:{local_processes()[0]}")
    return model


def may_train_vision(tuner: Any) -> bool:
    """Whether weights outside the language model may be trained: then ranks without a picture leave some unused."""
    if tuner.sft_type == "lora" and (tuner.lora_target_regex or tuner.modules_to_save or tuner.adapters):
        return True  # these may name anything; target names keep out of frozen groups
    return not (tuner.freeze_vit and tuner.freeze_aligner)
