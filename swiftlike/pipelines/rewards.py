"""What a reward model needs beyond other objectives: its head, where that is read from, and how the model is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.core.log import get_logger
from swiftlike.core.merge import DEFAULT, Run
from swiftlike.losses.base import LossCard
from swiftlike.models.reward_files import fill_head, first_head, no_classifier, saved_pooling
from swiftlike.models.reward_head import ValueHead, add_value_head, base_of, freeze_language_head, hidden_size
from swiftlike.pipelines.prepare import Checkpoint

log = get_logger(__name__)
START = "the reward model that training starts from"


def is_reward(card: LossCard) -> bool:
    """Whether the objective trains a reward model."""
    return card.record == "rewards"


def pooling_of(run: Run, card: LossCard) -> str | None:
    """What a reward is read from; None for other objectives."""
    return getattr(run.loss, "rm_pooling", "eos") if is_reward(card) else None


def end_tokens(checkpoint: Checkpoint) -> frozenset[int]:
    """Tokens that end an answer: the tokenizer's own, and what the template puts behind one."""
    tokenizer, card = checkpoint.tokenizer, checkpoint.template.card
    ids = tokenizer(card.stop, add_special_tokens=False)["input_ids"] if card is not None and card.stop else []
    special = set(ids[-1:]) & set(tokenizer.added_tokens_decoder)
    return frozenset({tokenizer.eos_token_id, *special} - {None})


def spare_padding(checkpoint: Checkpoint) -> None:
    """Pad with a token that ends no answer where the tokenizer has one to spare: a classifier finds the last token by
    what is not padding."""
    tokenizer, ends = checkpoint.tokenizer, end_tokens(checkpoint)
    if tokenizer.pad_token_id not in ends:
        return
    spare = [
        token.content
        for number, token in sorted(tokenizer.added_tokens_decoder.items())
        if token.special and number not in ends and ("pad" in token.content or "reserved" in token.content)
    ]
    if spare:
        tokenizer.pad_token = min(spare, key=lambda name: "pad" not in name)


def kept_pooling(run: Run, card: LossCard) -> Run:
    """The run, its rewards read as those of the reward model that it continues, unless a flag says otherwise."""
    if not is_reward(card) or not hasattr(run.loss, "rm_pooling"):
        return run
    found = first_head(_folders(run))
    if found is None or (before := saved_pooling(found[0])) == run.loss.rm_pooling:
        return run
    if run.origin.get("rm_pooling", DEFAULT) == DEFAULT:
        return run.replace(START, rm_pooling=before)
    log.warning("%s was trained with --rm_pooling %s, this run reads %s", found[0], before, run.loss.rm_pooling)
    return run


def _folders(run: Run, base: Path | None = None) -> list[Path]:
    """Where a head may lie, the checkpoint that training goes on from first."""
    named = [run.train.resume_from_checkpoint, *run.tuner.adapters[:1], run.model.model, base]
    return [Path(one).expanduser() for one in named if one and Path(one).expanduser().is_dir()]


def add_reward_head(model: Any, run: Run, base_folder: Path) -> None:
    """A head, read from beside the weights that training starts from, or new."""
    base = base_of(model)
    if hasattr(base.get_output_embeddings(), "modules_to_save"):
        raise UserError("--modules_to_save names the language-model head, which a reward model does not use")
    freeze_language_head(base)
    found = first_head(_folders(run, base_folder))
    bias = getattr(run.loss, "rm_head_bias", None)
    if bias is None:
        bias = "summary.bias" in found[1] if found else run.tuner.sft_type == "lora"
    std = getattr(base.config.get_text_config(), "initializer_range", None) or 0.02
    dropout = getattr(run.loss, "rm_head_dropout", 0.0)
    head = ValueHead(hidden_size(base), bias=bias, dropout=dropout, std=std, seed=run.train.seed)
    if found:
        fill_head(head, found[1], found[0])
    if bias:
        head.summary.bias.requires_grad_(getattr(run.loss, "moves_bias", True))
    log.info("reward head: %s", f"from {found[0]}" if found else "new")
    add_value_head(base, head, getattr(run.loss, "rm_pooling", "eos"))


def classifier_padding(model: Any, run: Run, card: LossCard, checkpoint: Checkpoint) -> int | None:
    """The padding token of the sequence classifier that the model is saved as; None where it is saved otherwise."""
    if not is_reward(card):
        return None
    if run.tuner.sft_type == "lora":
        log.info("checkpoints: the adapter and value_head.safetensors")
        return None
    pad = checkpoint.tokenizer.pad_token_id
    if reason := no_classifier(model, pooling_of(run, card) or "", pad, end_tokens(checkpoint)):
        log.info("checkpoints: the model and value_head.safetensors; no sequence classifier, because %s", reason)
        return None
    log.info("checkpoints: a sequence classifier with one label (AutoModelForSequenceClassification)")
    return pad
