"""A model with its adapters merged, or in another type: written, read back, and compared with what it was."""

from __future__ import annotations

import dataclasses as dc
import gc
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from swiftlike.core.errors import UserError
from swiftlike.core.log import get_logger
from swiftlike.core.merge import COMMAND_LINE, Run
from swiftlike.models.load import DTYPES, NATIVE, fit_separator, load_config, load_model, read_config
from swiftlike.models.placement import device_map
from swiftlike.models.published import rename_folder
from swiftlike.models.reward_files import load_reward_model, no_classifier, save_reward_model
from swiftlike.models.reward_head import base_of
from swiftlike.pipelines.export.folders import adapter_config, keep_args, leave_record
from swiftlike.pipelines.export.samples import SHARES, Measured, Samples, choose_samples
from swiftlike.pipelines.rewards import end_tokens, spare_padding
from swiftlike.pipelines.serving import Opened
from swiftlike.trainers.checkpoint import save_processor

log = get_logger(__name__)
STORED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # safetensors' names
GENERATION = "generation_config.json"
OWN_TOKENIZER = "tokenizer.model"  # sentencepiece's, which llama.cpp and older programs read
TOGETHER = "together"


def write_model(run: Run, opened: Opened, draft: Path) -> None:
    """Write the model that `opened` names, adapters merged, as an ordinary folder. UserError when what was written
    does not compute what the model did."""
    _refuse(run, opened)
    dtype = _storage(run, opened)
    if opened.reward:
        spare_padding(opened.checkpoint)
    samples = choose_samples(run, opened)
    log.info("merging in float32, writing %s", _word(dtype))
    before, effect = _write(run, opened, samples, draft, dtype)
    gc.collect()
    after = _measured_again(opened, samples, draft)
    difference, bound = before.difference(after), run.export.bound
    bound = SHARES[dtype] * before.largest if bound is None else bound
    what = "reward" if opened.reward else "logit"
    tokens = "" if opened.reward else f", likeliest tokens that differ: {before.other_tokens(after)}"
    moved = f"; the adapter moves them by up to {effect:.2g}" if opened.adapters else ""
    sys.stdout.write(
        f"largest {what} difference {difference:.2g} over {before.positions} positions of {len(before.outputs)} "
        f"samples, {what}s up to {before.largest:.2g}{moved}; bound {bound:.2g}{tokens}\n"
    )
    if difference > bound:
        raise UserError(
            f"what would be written differs by {difference:.2g}, more than {bound:.2g}: nothing is written",
            hint=_way_out(dtype),
        )
    if opened.adapters and effect and difference > effect / 2:
        log.warning("%s keeps little of so small a change: see --torch_dtype float32", _word(dtype))
    leave_record(
        draft,
        base=opened.checkpoint.source.id,
        adapters={name: str(folder) for name, folder in opened.adapters.items()},
        dtype=_word(dtype),
        difference=difference,
        bound=bound,
    )


def _way_out(dtype: torch.dtype) -> str:
    more = "" if dtype == torch.float32 else "write float32 (--torch_dtype float32), or "
    return f"{more}say how much is good enough with --bound; if neither helps, please report it"


# -- what cannot be merged --------------------------------------------------------------------------------------------


def _refuse(run: Run, opened: Opened) -> None:
    folder = opened.model_folder
    if read_config(folder).get("quantization_config"):
        raise UserError(
            f"{folder} is quantised: its weights cannot take an adapter, nor another type",
            hint="name the model that it was made from: --model",
        )
    if opened.adapters and opened.args.get("quant_bits") and run.origin.get("model") != COMMAND_LINE:
        raise UserError(
            f"the adapter was trained on a base in {opened.args['quant_bits']} bits, which cannot be merged exactly",
            hint="to merge it into the weights that the base had before, whose answers differ a little, name them: "
            f"--model {opened.args.get('model') or opened.checkpoint.source.id}",
        )
    for path in opened.adapters.values():
        if path.is_dir():
            _refuse_adapter(path, opened, many=len(opened.adapters) > 1)


def _refuse_adapter(path: Path, opened: Opened, many: bool) -> None:
    config = adapter_config(path)
    if config.get("peft_type", "LORA") != "LORA":
        raise UserError(f"{path} is a {config['peft_type']} adapter; only LoRA can be merged")
    if many and (config.get("use_dora") or config.get("modules_to_save") or config.get("bias", "none") != "none"):
        raise UserError(f"{path} has more than LoRA matrices (DoRA, biases, whole modules): merge it alone")
    if not opened.reward and any(name.endswith("score.weight") for name in _names(path)):
        raise UserError(
            f"{path} holds a classifier's head (score.weight) inside the adapter, which would be lost",
            hint="put it into value_head.safetensors as v_head.summary.weight, beside the adapter",
        )


def _names(folder: Path) -> list[str]:
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        return []
    with safe_open(file, "pt") as opened:
        return list(opened.keys())


# -- merging ----------------------------------------------------------------------------------------------------------


def _write(run: Run, opened: Opened, samples: Samples, draft: Path, dtype: torch.dtype) -> tuple[Measured, float]:
    """What the model computes before it is merged, and by how much the adapters move that."""
    shard = run.export.max_shard_size
    if opened.reward:
        loaded = load_reward_model(opened.head_folder, opened.run.model, **_keywords(run, opened))
        before, effect = _measured(loaded.model, lambda net: samples.rewards(dc.replace(loaded, model=net)))
        model: Any = _merged(loaded.model)
        head = {f"v_head.{name}": weight.clone() for name, weight in model.v_head.state_dict().items()}
        pad = _classifier_padding(model, loaded.pooling, opened.checkpoint)
        model = _as_published(model.to(dtype), opened)
        save_reward_model(model, draft, model.state_dict() | head, pad, max_shard_size=shard)
    else:
        model = _with_adapters(run, opened)
        before, effect = _measured(model, samples.logits)
        _as_published(_merged(model).to(dtype), opened).save_pretrained(draft, max_shard_size=shard)
    _other_files(opened, draft)
    return before, effect


def _measured(model: Any, measure: Callable[[Any], Measured]) -> tuple[Measured, float]:
    before = measure(model)
    if not hasattr(model, "disable_adapter"):
        return before, 0.0
    with model.disable_adapter():
        return before, before.difference(measure(model))


def _with_adapters(run: Run, opened: Opened) -> Any:
    model: Any = load_model(opened.checkpoint.source, **_keywords(run, opened))
    fit_separator(model, opened.checkpoint.tokenizer)
    if not opened.adapters:
        return model.eval()
    from peft import PeftModel

    names = [f"adapter_{i}" for i in range(len(opened.adapters))]  # PEFT takes no dots
    for name, folder in zip(names, opened.adapters.values(), strict=True):
        if isinstance(model, PeftModel):
            model.load_adapter(str(folder), adapter_name=name)
        else:
            model = PeftModel.from_pretrained(model, str(folder), adapter_name=name)
    if run.export.adapter_weights:
        model.add_weighted_adapter(names, run.export.adapter_weights, TOGETHER, combination_type="cat")
        model.set_adapter(TOGETHER)
    return model.eval()


def _keywords(run: Run, opened: Opened) -> dict[str, Any]:
    whole = dc.replace(run.model, quant_bits=0)  # that flag is about what is written
    placed = device_map(whole, opened.checkpoint.config, torch.float32) if run.model.device_map else {}
    usual = {"dtype": torch.float32, "attn_implementation": opened.checkpoint.attention}
    return {**usual, **placed, **run.model.model_kwargs}


def _merged(model: Any) -> Any:
    """The plain model. ValueError's text as a UserError where weights are not numbers."""
    if not hasattr(model, "merge_and_unload"):
        return model
    base = base_of(model)
    _untie(base)
    try:
        merged = model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise UserError(f"PEFT cannot merge this adapter: {error}") from error
    first, last = merged.get_input_embeddings(), merged.get_output_embeddings()
    if last is not None and first.weight is not last.weight:
        for config in (merged.config, merged.config.get_text_config()):
            config.tie_word_embeddings = False
    return merged


def _untie(base: Any) -> None:
    """An adapter on the input embedding alone must not move an output embedding that shares its weights."""
    first, last = base.get_input_embeddings(), base.get_output_embeddings()
    weight = getattr(getattr(first, "base_layer", None), "weight", None)
    if weight is not None and getattr(last, "weight", None) is weight:
        last.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)


# -- writing ----------------------------------------------------------------------------------------------------------


def _storage(run: Run, opened: Opened) -> torch.dtype:
    """The type that is written: the one asked for, else that of most of the base's weights."""
    if run.model.torch_dtype != "auto":
        return DTYPES[run.model.torch_dtype]
    counted: Counter[str] = Counter()
    for file in opened.model_folder.glob("*.safetensors"):
        with safe_open(file, "pt") as shard:
            for name in shard.keys():  # noqa: SIM118 - not a mapping
                piece = shard.get_slice(name)
                counted[piece.get_dtype()] += torch.Size(piece.get_shape()).numel()
    said = getattr(opened.checkpoint.config, "dtype", None)
    found = STORED.get(counted.most_common(1)[0][0]) if counted else said
    return found if found in SHARES else torch.float32


def _as_published(model: Any, opened: Opened) -> Any:
    """The model with the settings of its own folder, where loading or training changed them."""
    config, own = model.config, load_config(opened.checkpoint.source)
    config.use_cache = getattr(own, "use_cache", True)
    if hasattr(own, "image_grid_pinpoints"):
        config.image_grid_pinpoints = own.image_grid_pinpoints
    if (opened.model_folder / GENERATION).is_file() and model.can_generate():
        from transformers import GenerationConfig

        model.generation_config = GenerationConfig()  # its own file is copied: some cannot be written again
    return model


def _other_files(opened: Opened, draft: Path) -> None:
    """All but weights and config.json, as a checkpoint of full training has them."""
    checkpoint, source = opened.checkpoint, opened.model_folder
    rename_folder(draft)
    checkpoint.tokenizer.save_pretrained(draft)
    save_processor(source, draft, checkpoint.image_processor)
    if (source / GENERATION).is_file():
        shutil.copyfile(source / GENERATION, draft / GENERATION)
    if checkpoint.source.loader == NATIVE and (source / OWN_TOKENIZER).is_file():
        shutil.copyfile(source / OWN_TOKENIZER, draft / OWN_TOKENIZER)
    trained = next(iter(opened.adapters.values())) if opened.adapters else source
    keep_args(trained, draft, opened.run)


def _classifier_padding(model: Any, pooling: str, checkpoint: Any) -> int | None:
    """The padding token of the sequence classifier that a reward model is written as; None where it cannot be one."""
    bias = model.v_head.summary.bias
    if bias is not None and not bias.any():
        model.v_head.summary.bias = None
    pad = checkpoint.tokenizer.pad_token_id
    if reason := no_classifier(model, pooling, pad, end_tokens(checkpoint)):
        log.info("a model and value_head.safetensors are written, no sequence classifier, because %s", reason)
        return None
    log.info("a sequence classifier with one label is written (AutoModelForSequenceClassification)")
    return pad


def _measured_again(opened: Opened, samples: Samples, draft: Path) -> Measured:
    """What the folder computes, read as a user would."""
    attention = {"dtype": torch.float32, "attn_implementation": opened.checkpoint.attention}
    if opened.reward:
        return samples.rewards(load_reward_model(draft, **attention))
    source = dc.replace(opened.checkpoint.source, folder=draft, loader=NATIVE)
    return samples.logits(load_model(source, **attention).eval())


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
