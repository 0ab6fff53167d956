"""What is trained: LoRA targets, freeze groups, adapters that training continues from, learning-rate groups."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swiftlike.core.errors import UserError
from swiftlike.core.pickles import refuse_pickled_adapter
from swiftlike.model_registry.card import LoraTargets, ModelCard


def freeze(model: nn.Module, card: ModelCard, tuner: Any) -> None:
    """Turn off gradients of the frozen groups (full training; LoRA freezes everything but its own weights)."""
    groups = ((tuner.freeze_vit, card.lora.tower), (tuner.freeze_aligner, card.lora.aligner))
    frozen = [prefix for off, prefixes in groups if off for prefix in prefixes]
    if tuner.freeze_llm:
        frozen += card.lora.language
    for name, parameter in model.named_parameters():
        if _under(name, frozen):
            parameter.requires_grad_(False)
    if tuner.freeze_llm:
        model.get_output_embeddings().requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("nothing is left to train: every group is frozen")


def target_names(model: nn.Module, card: ModelCard, tuner: Any) -> list[str] | str:
    """`target_modules` for PEFT: a regular expression over full module names, or the user's own names.

    DEFAULT is q, k, v of the language model; ALL its linear layers, with the aligner's and the vision tower's where
    `--freeze_aligner false` and `--freeze_vit false` say so; EMBEDDING its input embedding. The user's own names keep
    out of frozen groups too.
    """
    if tuner.lora_target_regex:
        _must_match(model, tuner.lora_target_regex, "--lora_target_regex")
        _not_the_head(model, tuner.lora_target_regex)
        return tuner.lora_target_regex
    patterns, names = [], []
    for word in tuner.lora_target_modules:
        pattern = _pattern(model, card.lora, word)
        (patterns if pattern else names).append(pattern or re.escape(word))
    vision = [(tuner.freeze_aligner, card.lora.aligner), (tuner.freeze_vit, card.lora.tower)]
    for off, prefixes in vision:
        if not off and "ALL" in tuner.lora_target_modules:
            patterns += _linears(model, prefixes)
    frozen = [re.escape(prefix) for off, prefixes in vision if off for prefix in prefixes]
    outside = rf"(?!({'|'.join(frozen)})(\.|$))" if frozen else ""
    own = [rf"{outside}(.*\.)?({'|'.join(names)})"] if names else []
    regex = "|".join(f"({one})" for one in (*patterns, *own))
    _must_match(model, regex, "--lora_target_modules " + " ".join(tuner.lora_target_modules))
    _not_the_head(model, regex)
    return regex


def _pattern(model: nn.Module, lora: LoraTargets, word: str) -> str:
    """The expression a capital word stands for; empty for a module name."""
    if word == "DEFAULT":
        return lora.attention
    if word == "ALL":
        return lora.linear or "|".join(_linears(model, lora.language))
    if word == "EMBEDDING":
        return re.escape(_name_of(model, model.get_input_embeddings()))
    return ""


def _name_of(model: nn.Module, module: nn.Module) -> str:
    return next(name for name, one in model.named_modules() if one is module)


def _linears(model: nn.Module, prefixes: Iterable[str]) -> list[str]:
    """Every linear layer under the prefixes, the output head apart, as suffix patterns without layer numbers."""
    head = model.get_output_embeddings()
    found = {
        re.sub(r"\\\.\d+\\\.", r"\\.\\d+\\.", re.escape(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and _under(name, prefixes)
    }
    return sorted(found)


def _under(name: str, prefixes: Iterable[str]) -> bool:
    """Whether a name lies below one of the prefixes; the empty one is the whole model."""
    return any(not prefix or name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def _must_match(model: nn.Module, regex: str, flag: str) -> None:
    names = [name for name, _ in model.named_modules() if name]
    if not any(re.fullmatch(regex, name) for name in names):
        ends = sorted({name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, nn.Linear)})
        raise UserError(
            f"{flag} matches no module of this model", hint=f"its linear layers are called {', '.join(ends)}"
        )


def _not_the_head(model: nn.Module, regex: str) -> None:
    name = _name_of(model, model.get_output_embeddings())
    if re.fullmatch(regex, name):
        raise UserError(
            f"LoRA on the output head ({name}) is not supported", hint=f"train it whole: --modules_to_save {name}"
        )


def add_lora(model: nn.Module, card: ModelCard, tuner: Any, dropout: bool) -> nn.Module:
    """A PEFT model: a fresh adapter, or the one training continues from. `dropout` False sets LoRA's to zero."""
    from peft import LoraConfig, PeftModel, get_peft_model

    if tuner.adapters:
        return _cast(PeftModel.from_pretrained(model, _adapter_folder(tuner.adapters[0]), is_trainable=True), tuner)
    start = {"true": True, "false": False}.get(str(tuner.init_lora_weights).lower(), tuner.init_lora_weights)
    config = LoraConfig(
        r=tuner.lora_rank,
        lora_alpha=tuner.lora_alpha,
        lora_dropout=tuner.lora_dropout if dropout else 0.0,
        bias=tuner.lora_bias,
        target_modules=target_names(model, card, tuner),
        modules_to_save=list(tuner.modules_to_save) or None,
        use_rslora=tuner.use_rslora,
        use_dora=tuner.use_dora,
        init_lora_weights=start,
        task_type="CAUSAL_LM",
    )
    return _cast(get_peft_model(model, config), tuner)


def _cast(model: Any, tuner: Any) -> Any:
    """The adapter's weights in `--lora_dtype`; PEFT itself takes float32 for half-precision bases."""
    if tuner.lora_dtype is not None:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(getattr(torch, tuner.lora_dtype))
    return model


def _adapter_folder(name: str) -> str:
    path = Path(name)
    if path.is_dir() and not (path / "adapter_config.json").is_file():
        raise UserError(
            f"{name} has no adapter_config.json: it is not a LoRA checkpoint", hint="a full one goes to --model"
        )
    refuse_pickled_adapter(path)
    return name


def load_reference_adapter(model: Any, folder: str) -> None:
    """A frozen second adapter: the SFT adapter that a preference run started from."""
    model.load_adapter(_adapter_folder(folder), adapter_name="reference", is_trainable=False)
    model.set_adapter("default")


def no_dropout(model: nn.Module) -> None:
    """Turn every dropout off: preference losses compare log-probabilities of two passes."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():  # rates that are handed to a function: attention_dropout, layerdrop
            if isinstance(value, float) and "drop" in name:
                setattr(module, name, 0.0)


def learning_rates(model: nn.Module, card: ModelCard, tuner: Any, rate: float) -> dict[str, float]:
    """Parameter name to its own learning rate, where it differs: `--vit_lr`, `--aligner_lr`, `--lora_lr_ratio`."""
    rates: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        bare = name.removeprefix("base_model.model.")
        if not parameter.requires_grad:
            continue
        if tuner.vit_lr is not None and _under(bare, card.lora.tower):
            rates[name] = tuner.vit_lr
        elif tuner.aligner_lr is not None and _under(bare, card.lora.aligner):
            rates[name] = tuner.aligner_lr
        elif tuner.lora_lr_ratio is not None and "lora_B" in name:
            rates[name] = rate * tuner.lora_lr_ratio
    return rates
