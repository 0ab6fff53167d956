"""From a name to a folder, a config, a tokenizer and a model.

Code that comes with a checkpoint runs only where transformers lacks the architecture and the user trusts the author.
"""

from __future__ import annotations

import dataclasses as dc
import importlib
import json
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from swiftlike.core import collector
from swiftlike.core.dotted import resolve
from swiftlike.core.errors import UserError
from swiftlike.core.log import get_logger
from swiftlike.core.optional import require
from swiftlike.core.pickles import refuse_pickled_model
from swiftlike.model_registry.card import ModelCard, TemplateCard
from swiftlike.model_registry.match import find, settle

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = get_logger(__name__)
NATIVE = "swiftlike.models.load:native"
SEPARATOR = "<sep>"  # what tokenizers without a separator token get
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
WEIGHTS = ("*.safetensors", "*.bin", "*.pth", "*.pt", "*.gguf", "*.onnx", "*.msgpack", "*.h5")


@dc.dataclass(frozen=True, kw_only=True)
class Source:
    """A checkpoint on this machine. `name` is what run folders are called after, `id` what was asked for."""

    name: str
    id: str
    folder: Path
    card: ModelCard
    template: str
    loader: str
    remote: bool = False  # whether code in the folder makes its config, tokenizer and model
    separator: bool = True  # whether a template that has a place for the separator token is to use it


def locate(model: Any, weights: bool = True) -> Source:
    """Find the checkpoint that `run.model` names; fetch it from a hub when it is not on this machine.

    `weights` False fetches only configuration and tokenizer (`--dry_run`, `check`). UserError for pickled weights,
    unless `run.model.use_safetensors` is off: torch then reads numbers out of them and refuses anything else.
    """
    match = find(model.model, model.model_type)
    if match.builtin is not None:
        folder = resolve(match.builtin.build)(match.builtin.name)
    elif match.local:
        folder = Path(match.id_or_path).expanduser()
    else:
        folder = _download(match.source(model.use_hf), model, weights)
    config = read_config(folder)
    match = settle(match, config)
    assert match.card is not None
    if weights and model.use_safetensors:
        refuse_pickled_model(folder)
    return Source(
        name=match.name,
        id=match.id_or_path,
        folder=folder,
        card=match.card,
        template=model.template or match.template,
        loader=match.loader,
        remote=match.loader == NATIVE and _remote(match.id_or_path, config, model.trust_remote_code),
        separator=model.add_sep_token,
    )


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint folder."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} has no config.json: it is not a model folder")
    return json.loads(path.read_text(encoding="utf-8"))


def _remote(name: str, config: dict[str, Any], trusted: bool) -> bool:
    """Whether code that comes with the checkpoint has to run. UserError when it is not trusted."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if config.get("model_type") in CONFIG_MAPPING_NAMES or not config.get("auto_map"):
        return False
    if not trusted:
        raise UserError(
            f"{name} brings code of its own for its architecture ({config.get('model_type')}), which is not run",
            hint="use a checkpoint whose architecture transformers has itself; or read its .py files, and give "
            "--trust_remote_code true if you trust them with everything that you may do on this machine",
        )
    files = sorted({str(one).partition(".")[0].rpartition("--")[2] for one in config["auto_map"].values()})
    log.warning(
        "--trust_remote_code: RUNNING CODE THAT COMES WITH %s: %s", name, ", ".join(f"{one}.py" for one in files)
    )
    return True


def _download(name: str, model: Any, weights: bool) -> Path:
    ignore = [] if weights else list(WEIGHTS)
    try:
        if model.use_hf:
            from huggingface_hub import snapshot_download

            ignore += ["*.pth", "*.pt", "*.gguf", "*.onnx", "*.msgpack", "*.h5", "original/*", "consolidated*"]
            return Path(snapshot_download(name, revision=model.model_revision, ignore_patterns=ignore))
        hub = require("modelscope", because="--use_hf false", extra="modelscope")
        return Path(hub.snapshot_download(name, revision=model.model_revision, ignore_patterns=ignore or None))
    except UserError:
        raise
    except Exception as error:  # the hub's libraries, and those that they stand on, have classes of their own
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise UserError(
            f"cannot fetch {name!r}: {reason}",
            hint="start again: files that have arrived are kept; HF_HUB_OFFLINE=1 takes what is on this machine; "
            "or give a local folder with --model, or see `swiftlike list models`",
        ) from error


def load_config(source: Source) -> Any:
    """The transformers config, converted where the checkpoint is stored in another layout."""
    if source.loader != NATIVE:
        return resolve(source.loader.partition(":")[0] + ":convert_config")(read_config(source.folder))
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(source.folder, local_files_only=True, trust_remote_code=source.remote)


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """The tokenizer, with a padding token, and with a separator token where the template has a place for one."""
    if source.loader != NATIVE:
        tokenizer = importlib.import_module(source.loader.partition(":")[0]).tokenizer(source.folder)
    else:
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(
                source.folder, local_files_only=True, trust_remote_code=source.remote
            )
        except ValueError as error:
            if "trust_remote_code" not in str(error):
                raise
            raise UserError(f"{source.folder}: its tokenizer is code of its own, which is not run") from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    card = load_template(source)
    if card is not None and "{sep}" in card.user and tokenizer.sep_token is None:
        tokenizer.add_special_tokens({"sep_token": SEPARATOR})
    return tokenizer


def load_template(source: Source) -> TemplateCard | None:
    """The template card, None for the checkpoint's own Jinja template."""
    from swiftlike.model_registry import TEMPLATES

    if source.template == "chat_template":
        return None
    card = TEMPLATES.get(source.template)
    return card if source.separator else dc.replace(card, user=card.user.replace("{sep}", ""))


def load_image_processor(source: Source) -> Any:
    """The image processor where the checkpoint needs its own, None to read it from the folder."""
    if source.loader == NATIVE:
        return None
    return importlib.import_module(source.loader.partition(":")[0]).image_processor(source.folder)


def weight_dtype(compute: torch.dtype, full: bool) -> torch.dtype:
    """What weights are kept in: full training updates them, and small updates are lost in half precision, so it
    computes in half precision over float32 weights."""
    return torch.float32 if full else compute


def choose_dtype(requested: str) -> torch.dtype:
    """What is computed in. `auto`: bfloat16 where the device can, else float16, float32 on CPU."""
    if requested != "auto":
        dtype = DTYPES[requested]
    elif torch.cuda.is_available():
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    else:
        dtype = torch.float32
    return dtype


def choose_attention(source: Source, config: Any, requested: str | None) -> str:
    """The attention implementation: the family's first, or the requested one when the family allows it.

    Soft-capped attention scores exist in the eager implementation only (others drop the cap without a word).
    """
    allowed = source.card.attention
    if getattr(config.get_text_config(), "attn_logit_softcapping", None):
        allowed = ("eager",)
    if requested is None:
        return allowed[0]
    if requested not in (*allowed, "flex_attention") or (allowed == ("eager",) and requested != "eager"):
        raise UserError(f"--attn_impl {requested} is not exact for {source.card.name}; use {' or '.join(allowed)}")
    return requested


def load_model(source: Source, **keywords: Any) -> PreTrainedModel:
    """Weights included. Keywords are those of `from_pretrained` (dtype, attn_implementation, device_map, ...)."""
    collector.as_usual()
    try:
        trusted = {"trust_remote_code": True} if source.remote else {}
        model = resolve(source.loader)(source.folder, **trusted, **keywords)
    except pickle.UnpicklingError as error:
        raise UserError(f"{source.folder}: its weights are a pickle that holds more than numbers: {error}") from None
    model.config.use_cache = False
    return model


def fit_separator(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """A row in both embeddings for a separator token that the checkpoint does not have: about the mean of the others,
    and the same whenever the checkpoint is loaded."""
    token = tokenizer.sep_token_id
    weight = model.get_input_embeddings().weight
    if token is None or token < getattr(weight, "ds_shape", weight.shape)[0]:
        return
    from transformers.utils import logging

    log.info("the separator token %s is new to this model: its embeddings get rows for it", tokenizer.sep_token)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.resize_token_embeddings(len(tokenizer))
    logging.set_verbosity(verbosity)


def native(folder: Path, *, trust_remote_code: bool = False, **keywords: Any) -> PreTrainedModel:
    """A checkpoint that transformers knows itself, or that brings trusted code."""
    return auto_class(folder).from_pretrained(
        folder, local_files_only=True, trust_remote_code=trust_remote_code, **keywords
    )


def auto_class(folder: Path) -> Any:
    """The auto class for a checkpoint folder: with pictures where its config has them."""
    return _auto_class(read_config(folder).get("model_type"))


def _auto_class(model_type: str | None) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    vision = model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return AutoModelForImageTextToText if vision else AutoModelForCausalLM


def skeleton(config: Any) -> PreTrainedModel:
    """The model without weights (meta device), to count and plan with."""
    trusted = type(config).__module__.startswith("transformers_modules.")  # its code runs already
    with torch.device("meta"):
        return _auto_class(config.model_type).from_config(config, trust_remote_code=trusted)


def quantization(bits: int, method: str, dtype: torch.dtype) -> dict[str, Any]:
    """`from_pretrained` keywords for training on quantised weights (QLoRA)."""
    if not bits:
        return {}
    require("bitsandbytes", because=f"--quant_bits {bits}", extra="quant")
    if method != "bnb":
        raise UserError(f"--quant_method {method} is not supported for training; use bnb")
    from transformers import BitsAndBytesConfig

    if bits == 8:
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    }
