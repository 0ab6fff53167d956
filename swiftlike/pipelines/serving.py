"""From the flags of a command that uses a model to the model: which checkpoint, which adapters, which engine."""

from __future__ import annotations

import dataclasses as dc
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swiftlike.args.data import DataArgs
from swiftlike.args.generate import EngineArgs
from swiftlike.core.errors import UserError
from swiftlike.core.files import latest, named_folders, newest_checkpoint, read_args
from swiftlike.core.log import get_logger
from swiftlike.core.merge import DEFAULT, Run
from swiftlike.core.optional import available
from swiftlike.core.pickles import refuse_pickled_adapter
from swiftlike.data.collate import Collator
from swiftlike.data.load import max_bytes
from swiftlike.engines.base import Engine, Sampling, Scorer
from swiftlike.engines.prompts import Prompts
from swiftlike.models.load import choose_dtype, fit_separator, load_model, quantization
from swiftlike.models.placement import device_map
from swiftlike.models.reward_files import first_head, is_classifier, load_reward_model
from swiftlike.pipelines.assemble import same_tiles
from swiftlike.pipelines.prepare import Checkpoint, encoder, open_checkpoint
from swiftlike.pipelines.rewards import end_tokens

log = get_logger(__name__)
ADAPTER = "adapter_config.json"
PICTURES = ("max_pixels", "min_pixels", "max_image_tokens", "max_tiles")
NO_LIMIT = 1 << 30


@dc.dataclass(frozen=True, kw_only=True)
class Opened:
    """A model before its weights are loaded.

    `adapters` are folders by name; `served` is the one that a request without an adapter gets ("" for the bare
    model): the checkpoint's, or the only one when it was given without a name. `args` are the flags that the
    checkpoint was trained with, `run` the command's own, completed from them.
    """

    checkpoint: Checkpoint
    model_folder: Path
    adapters: dict[str, Path]
    served: str
    reward: bool
    args: Mapping[str, Any]
    run: Run

    @property
    def head_folder(self) -> Path:
        """Where a reward model's head lies: beside the adapter, or in the model's folder."""
        return self.adapters[self.served] if self.served else self.model_folder


def sampling(run: Run) -> Sampling:
    """How tokens are chosen, by `run.generate`."""
    asked = run.generate
    temperature = 1.0 if asked.do_sample and asked.temperature is None else asked.temperature
    return Sampling(
        max_new_tokens=asked.max_new_tokens,
        temperature=0.0 if asked.do_sample is False else temperature,
        top_p=asked.top_p,
        top_k=asked.top_k,
        repetition_penalty=asked.repetition_penalty,
        num_beams=asked.num_beams,
        stop=tuple(asked.stop),
        seed=asked.seed,
    )


# -- which model ------------------------------------------------------------------------------------------------------


def open_model(run: Run) -> Opened:
    """Find the model that `--ckpt_dir`, `--adapters` and `--model` name; its weights are fetched, not loaded."""
    from swiftlike.pipelines.train import quiet_transformers

    quiet_transformers()
    adapters, served = _adapters(run)
    folder = whole_checkpoint(run.use.ckpt_dir) if run.use.ckpt_dir else None
    if folder is not None and not (folder / ADAPTER).is_file():
        run = run.replace(f"--ckpt_dir {folder}", model=str(folder))
    elif folder is not None:
        served = _free_name(folder, adapters)
        adapters = {served: folder, **adapters}
    for adapter in adapters.values():
        refuse_pickled_adapter(adapter)
    if not run.model.model and not run.model.model_type:
        run = run.replace("the adapter", model=_base(next(iter(adapters.values()))))
    saved = _saved(folder or next(iter(adapters.values()), None) or run.model.model)
    run = _with_pictures(run, saved)
    checkpoint = open_checkpoint(run, weights=True)
    model_folder = checkpoint.source.folder
    heads = [*([adapters[served]] if served else []), *([] if served else [model_folder])]
    return Opened(
        checkpoint=checkpoint,
        model_folder=model_folder,
        adapters=adapters,
        served=served,
        reward=first_head(heads) is not None or is_classifier(model_folder),
        args=saved,
        run=run,
    )


def whole_checkpoint(name: str) -> Path:
    """The checkpoint folder itself, or the newest whole checkpoint of a run folder."""
    folder = Path(name).expanduser()
    if (folder / ADAPTER).is_file() or (folder / "config.json").is_file():
        return folder
    if folder.is_dir() and newest_checkpoint(folder) is not None:
        newest = latest(folder)
        log.info("--ckpt_dir %s is a run folder: its newest checkpoint is %s", folder, newest.name)
        return newest
    raise UserError(
        f"--ckpt_dir {name}: there is neither {ADAPTER} nor config.json", hint="name a checkpoint-N folder of a run"
    )


def _adapters(run: Run) -> tuple[dict[str, Path], str]:
    """Adapter folders by name, and the one that is served when none is asked for."""
    found, given = {}, named_folders(run.use.adapters)
    for name, folder in given:
        found[name] = _adapter_folder(folder)
    alone = len(given) == 1 and "=" not in run.use.adapters[0]
    return found, given[0][0] if alone else ""


def _adapter_folder(folder: str) -> Path:
    path = Path(folder).expanduser()
    return path if (path / ADAPTER).is_file() or not path.is_dir() else whole_checkpoint(folder)


def _free_name(folder: Path, taken: Mapping[str, Path]) -> str:
    name = folder.resolve().name
    return name if name not in taken else f"{folder.resolve().parent.name}-{name}"


def _base(adapter: Path) -> str:
    path = adapter / ADAPTER
    if not path.is_file():
        raise UserError(
            f"--adapters {adapter} is not on this machine", hint="name the model it belongs to with --model"
        )
    base = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise UserError(f"{path} does not say which model the adapter belongs to", hint="name it with --model")
    return base


def _saved(folder: str | Path) -> dict[str, Any]:
    found = read_args(folder)
    return found[1] if found else {}


def _with_pictures(run: Run, saved: Mapping[str, Any]) -> Run:
    """The run with limits for pictures: the command's own, else those of the training."""
    if "data" not in run.sections:
        run = dc.replace(run, sections={**run.sections, "data": DataArgs()})
    values = {
        name: saved[name]
        for name in PICTURES
        if saved.get(name) is not None and run.origin.get(name, DEFAULT) == DEFAULT
    }
    return run.replace("the checkpoint", **values) if values else run


# -- engines ----------------------------------------------------------------------------------------------------------


def open_engine(run: Run, opened: Opened) -> Engine:
    """The engine of `--infer_backend` with the model's weights loaded."""
    if opened.reward:
        raise UserError(f"{opened.head_folder} is a reward model: it scores answers and writes none")
    backend = run.use.infer_backend
    if backend == "vllm" or (backend == "auto" and available("vllm")):
        from swiftlike.engines.vllm import VllmEngine

        return VllmEngine(run, opened, prompts_of(run, opened))
    return _pt_engine(run, opened)


def prompts_of(run: Run, opened: Opened) -> Prompts:
    """What turns requests into tokens for this model, whichever engine reads them."""
    checkpoint = opened.checkpoint
    return Prompts(
        template=checkpoint.template,
        adapter=checkpoint.adapter,
        placeholder=encoder(opened.run, checkpoint, False).placeholder,
        context=context_of(run, opened),
        every=bool(opened.args) and "rlhf_type" not in opened.args,
        max_bytes=max_bytes(opened.run.data),
    )


def context_of(run: Run, opened: Opened) -> int:
    """Tokens that prompt and answer may have together."""
    own = getattr(opened.checkpoint.config.get_text_config(), "max_position_embeddings", None) or NO_LIMIT
    asked = _engine_args(run).max_model_len or own
    if asked > own:
        raise UserError(f"--max_model_len {asked}: this model was made for {own} tokens")
    return asked


def _engine_args(run: Run) -> EngineArgs:
    return run.sections.get("engine") or EngineArgs()


def _pt_engine(run: Run, opened: Opened) -> Engine:
    from swiftlike.engines.batch import Model
    from swiftlike.engines.pt import Adapters, PtEngine
    from swiftlike.engines.room import tokens_that_fit
    from swiftlike.engines.worker import Room

    prompts, asked = prompts_of(run, opened), _engine_args(run)
    net, known_as = _weights(opened, merge=run.use.merge_lora)
    model = Model(
        net=net,
        pad_id=opened.checkpoint.tokenizer.pad_token_id,
        adapter=opened.checkpoint.adapter,
        placeholder=prompts.placeholder,
    )
    rows = asked.max_batch_size or asked.max_num_seqs
    return PtEngine(
        model,
        prompts,
        Adapters(known_as=known_as, served=opened.served, mixed=_mixable(net)),
        Room(rows=rows, tokens=tokens_that_fit(model.base)),
    )


def _weights(opened: Opened, merge: bool) -> tuple[Any, dict[str, str]]:
    """The model with its adapters, and what PEFT calls each of them ("" once it is merged)."""
    model = load_model(opened.checkpoint.source, **_keywords(opened.run, opened.checkpoint))
    fit_separator(model, opened.checkpoint.tokenizer)
    if opened.checkpoint.adapter is not None:
        same_tiles(model.config, opened.checkpoint.config)
    model = _on_card(model)
    known_as = {name: f"adapter_{i}" for i, name in enumerate(opened.adapters)}  # PEFT takes no dots
    if not known_as:
        return model.eval(), {}
    from peft import PeftModel

    (first, folder), *others = opened.adapters.items()
    model = PeftModel.from_pretrained(model, str(folder), adapter_name=known_as[first])
    for name, folder in others:
        model.load_adapter(str(folder), adapter_name=known_as[name])
    if merge:
        return model.merge_and_unload().eval(), dict.fromkeys(known_as, "")
    return model.eval(), known_as


def _keywords(run: Run, checkpoint: Checkpoint) -> dict[str, Any]:
    model, dtype = run.model, choose_dtype(run.model.torch_dtype)
    return {
        "dtype": dtype,
        "attn_implementation": checkpoint.attention,
        **device_map(model, checkpoint.config, dtype),
        **quantization(model.quant_bits, model.quant_method, dtype),
        **model.model_kwargs,
    }


def _on_card(model: Any) -> Any:
    """On the card where there is one, unless a map or quantisation has placed it already."""
    import torch

    placed = getattr(model, "hf_device_map", None) or getattr(model, "is_quantized", False)
    return model.to("cuda") if torch.cuda.is_available() and not placed else model


def _mixable(net: Any) -> bool:
    """Whether one batch may hold answers of several adapters: PEFT cannot with DoRA or trained biases."""
    configs = getattr(net, "peft_config", {}).values()
    return not any(config.use_dora or config.bias != "none" or config.modules_to_save for config in configs)


# -- reward models ----------------------------------------------------------------------------------------------------


def open_scorer(run: Run, opened: Opened) -> Scorer:
    """The reward model with its weights loaded."""
    from swiftlike.engines.rewards import PtScorer

    if run.use.infer_backend == "vllm":
        raise UserError("--infer_backend vllm does not score with reward models yet", hint="leave it at pt")
    named, checkpoint = opened.run.model, opened.checkpoint
    keywords = _keywords(opened.run, checkpoint)
    loaded = load_reward_model(opened.head_folder, named, **keywords)
    if checkpoint.adapter is not None:
        same_tiles(loaded.model.config, checkpoint.config)
    encode = dc.replace(encoder(opened.run, checkpoint, every=False), max_length=context_of(run, opened))
    collate = Collator(
        pad_id=checkpoint.tokenizer.pad_token_id,
        layout=checkpoint.layout,
        adapter=checkpoint.adapter,
        placeholder=encode.placeholder,
        pooling=loaded.pooling,
        ends=end_tokens(checkpoint),
    )
    rows = _engine_args(run).max_batch_size or 64
    return PtScorer(model=_on_card(loaded.model), encode=encode, collate=collate, rows=rows)
