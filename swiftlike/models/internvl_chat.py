"""InternVL checkpoints in OpenGVLab's own layout (`InternVLChatModel`), loaded as transformers' native InternVL.

No code of the checkpoint runs: the configuration is translated, the tensors are renamed, and the two fused attention
matrices are split. InternLM2 is a Llama whose query, key and value rows are interleaved per key/value head. The
tile count, the picture tokens and the tokenizer come from the checkpoint's own files. Layouts the native model cannot
express are refused by name. Training with drop path is not expressed either: the native vision tower has none.
"""

from __future__ import annotations

import dataclasses as dc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from transformers import (
    GenerationConfig,
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling

from swiftlike.core.errors import UserError
from swiftlike.models.internvl_tokenizer import added_tokens, handles, named_tokens, sentencepiece_tokenizer
from swiftlike.models.internvl_weights import convert_state

# Native field: (published field, value of OpenGVLab's configuration class when config.json leaves it out).
_VISION = {
    "hidden_size": ("hidden_size", 3200),
    "num_hidden_layers": ("num_hidden_layers", 48),
    "num_attention_heads": ("num_attention_heads", 25),
    "intermediate_size": ("intermediate_size", 12800),
    "hidden_act": ("hidden_act", "gelu"),
    "attention_bias": ("qkv_bias", False),
    "use_qk_norm": ("qk_normalization", True),
    "norm_type": ("norm_type", "rms_norm"),
    "layer_norm_eps": ("layer_norm_eps", 1e-6),
    "image_size": ("image_size", 224),
    "patch_size": ("patch_size", 14),
    "attention_dropout": ("attention_dropout", 0.0),
    "projection_dropout": ("dropout", 0.0),
    "initializer_range": ("initializer_range", 0.02),
    "layer_scale_init_value": ("initializer_factor", 0.1),
}
_INTERNLM2 = {
    "vocab_size": 103168,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_TEXT = {
    "InternLM2ForCausalLM": LlamaConfig,
    "LlamaForCausalLM": LlamaConfig,
    "Qwen2ForCausalLM": Qwen2Config,
    "Qwen3ForCausalLM": Qwen3Config,
    "Phi3ForCausalLM": Phi3Config,
}

_SPECIAL = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}


def convert_config(config: dict[str, Any], image_token_id: int | None = None, tied: bool = False) -> InternVLConfig:
    """Native configuration for a published config.json.

    `image_token_id` is the id of `<IMG_CONTEXT>`, which config.json does not hold (`load` reads it from the tokenizer
    files; None keeps transformers' default). `tied`: input and output embeddings are one tensor. UserError where the
    native model has no equal.
    """
    _refuse(config)
    published = config["vision_config"]
    vision = InternVLVisionConfig(
        **{native: published.get(name, default) for native, (name, default) in _VISION.items()}, use_mean_pooling=True
    )
    image_size = config.get("force_image_size") or published.get("image_size", 224)
    ratio = config.get("downsample_ratio", 0.5)
    known = {} if image_token_id is None else {"image_token_id": image_token_id}
    dtype = config.get("torch_dtype") or config.get("dtype") or config["llm_config"].get("torch_dtype")
    return InternVLConfig(
        vision_config=vision,
        text_config=_text_config(config["llm_config"], tied),
        image_seq_length=int((image_size // vision.patch_size[0]) ** 2 * ratio**2),
        downsample_ratio=ratio,
        vision_feature_layer=config.get("select_layer", -1),
        tie_word_embeddings=tied,
        dtype=dtype,
        architectures=["InternVLForConditionalGeneration"],
        **known,
    )


def _refuse(config: dict[str, Any]) -> None:
    """UserError for a configuration whose arithmetic the native model does not have."""
    if "vision_config" not in config or "llm_config" not in config:
        raise UserError("this config.json is not in OpenGVLab's InternVLChatModel layout: no vision_config/llm_config")
    vision, (text,) = config["vision_config"], config["llm_config"].get("architectures") or [""]
    normed = vision.get("qk_normalization", True)
    wrong = {
        f"language model {text!r}; known: {', '.join(_TEXT)}": text not in _TEXT,
        "ps_version 'v1' (transposed pixel shuffle)": config.get("ps_version", "v1") != "v2",
        "pad2square": bool(config.get("pad2square")),
        "use_backbone_lora / use_llm_lora": bool(config.get("use_backbone_lora") or config.get("use_llm_lora")),
        "layer_norm_eps other than 1e-6 with qk_normalization": normed and vision.get("layer_norm_eps", 1e-6) != 1e-6,
        "quantization_config (AWQ, int8)": bool(config.get("quantization_config")),
    }
    problems = [what for what, found in wrong.items() if found]
    if problems:
        raise UserError(
            "this InternVL checkpoint uses what transformers' native InternVL cannot express",
            "take a checkpoint in transformers' layout (ids ending in -hf), or an unquantised one",
            problems,
        )


def _text_config(published: dict[str, Any], tied: bool) -> PreTrainedConfig:
    """Native configuration of the language model; generation and bookkeeping fields are left out."""
    kind = published["architectures"][0]
    native = _TEXT[kind]
    if kind == "InternLM2ForCausalLM":
        values = {name: published.get(name, default) for name, default in _INTERNLM2.items()}
        values["attention_bias"] = published.get("bias", True)
    else:
        common = {field.name for field in dc.fields(PreTrainedConfig)}
        wanted = {field.name for field in dc.fields(native)} - common | {"pad_token_id", "bos_token_id", "eos_token_id"}
        values = {name: value for name, value in published.items() if name in wanted}
    scaling = dict(published.get("rope_scaling") or published.get("rope_parameters") or {})
    rope = scaling.pop("type", "default")
    values["rope_parameters"] = {
        "rope_theta": published.get("rope_theta", 10000.0),
        "rope_type": {"su": "longrope"}.get(rope, rope),  # Phi3's first name for it
        **scaling,
    }
    values |= {"tie_word_embeddings": tied, "use_cache": True}
    return native(**values)


def load(
    folder: str | Path, dtype: torch.dtype | str = "auto", attn_implementation: str | None = None, **kwargs: Any
) -> InternVLForConditionalGeneration:
    """The native model with the folder's weights; `save_pretrained` then writes an ordinary native folder.

    `dtype` "auto" is the checkpoint's own. Other keywords go to transformers' `from_pretrained` (device_map,
    quantization_config, ...). Tensors that are copied as they are stay memory mapped until they are placed.
    UserError when files, names or shapes do not fit.
    """
    folder = Path(folder)
    published, files = _json(folder / "config.json"), _weight_files(folder)
    config = convert_config(published, image_token_id(folder))
    given = {name: tuple(tensor.shape) for name, tensor in convert_state(_shapes(files), config)}
    if "lm_head.weight" not in given and published["llm_config"].get("tie_word_embeddings"):
        config = convert_config(published, config.image_token_id, tied=True)
    _check(given, config)
    if dtype == "auto":
        dtype = config.dtype or torch.bfloat16
    if attn_implementation:
        kwargs["attn_implementation"] = attn_implementation
    state = dict(convert_state(_tensors(files), config))
    model = InternVLForConditionalGeneration.from_pretrained(
        None, config=config, state_dict=state, dtype=dtype, **kwargs
    )
    model.name_or_path = model.config.name_or_path = str(folder)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


def _check(given: dict[str, tuple[int, ...]], config: InternVLConfig) -> None:
    """UserError naming tensors that are missing, too many, or of another shape than the configuration says."""
    with torch.device("meta"):
        state = InternVLForConditionalGeneration(config).state_dict()
    if config.tie_word_embeddings:
        del state["lm_head.weight"]
    wanted = {name: tuple(tensor.shape) for name, tensor in state.items()}
    problems = [f"missing: {name}" for name in wanted if name not in given]
    problems += [f"unexpected: {name}" for name in given if name not in wanted]
    problems += [
        f"{name} has shape {given[name]}, the configuration asks for {shape}"
        for name, shape in wanted.items()
        if name in given and given[name] != shape
    ]
    if problems:
        raise UserError("the checkpoint's tensors do not fit its config.json", "is a file missing or cut?", problems)


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    names = sorted(set(_json(index)["weight_map"].values())) if index.is_file() else ["model.safetensors"]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(f"weight files are missing in {folder}", "download the checkpoint again", missing)
    return [folder / name for name in names]


def _tensors(files: list[Path]) -> Iterator[tuple[str, torch.Tensor]]:
    for path in files:
        with safe_open(path, framework="pt") as shard:
            for name in shard.keys():  # noqa: SIM118 (safe_open is no mapping)
                yield name, shard.get_tensor(name)


def _shapes(files: list[Path]) -> Iterator[tuple[str, torch.Tensor]]:
    """The same names with tensors that have a shape and no data: only the files' headers are read."""
    for path in files:
        with safe_open(path, framework="pt") as shard:
            for name in shard.keys():  # noqa: SIM118
                yield name, torch.empty(shard.get_slice(name).get_shape(), device="meta")


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing", "a checkpoint folder has config.json and *.safetensors") from None


def image_token_id(folder: str | Path) -> int:
    """Id of `<IMG_CONTEXT>` from the folder's tokenizer files; UserError when none of them names it."""
    found = [number for number, token in added_tokens(Path(folder)).items() if token.content == "<IMG_CONTEXT>"]
    if not found:
        raise UserError(f"no tokenizer file in {folder} names <IMG_CONTEXT>", "copy the checkpoint's tokenizer files")
    return found[0]


def tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer without remote code; `<img>`, `</img>` and `<IMG_CONTEXT>` are named special tokens.

    InternLM2's (and a Llama tokenizer that is only a sentencepiece file) is rebuilt from `tokenizer.model`; others
    are transformers' own class, as tokenizer_config.json names it.
    """
    folder = Path(folder)
    if handles(folder):
        return sentencepiece_tokenizer(folder, _SPECIAL)
    name = _json(folder / "tokenizer_config.json").get("tokenizer_class", "PreTrainedTokenizerFast")
    native = getattr(transformers, name, None) or PreTrainedTokenizerFast
    others = [token for token in added_tokens(folder).values() if token.special]
    return native.from_pretrained(folder, **named_tokens(_SPECIAL, others))


def image_processor(folder: str | Path) -> GotOcr2ImageProcessorPil:
    """Tiles as the original cuts them: square tiles of `force_image_size`, bicubic, ImageNet statistics, a thumbnail.

    The pillow version is taken on purpose: OpenGVLab resizes with pillow. UserError without a thumbnail, which the
    native processor always adds.
    """
    config = _json(Path(folder) / "config.json")
    side = config.get("force_image_size") or config["vision_config"].get("image_size", 224)
    tiles = bool(config.get("dynamic_image_size", False))
    if tiles and not config.get("use_thumbnail", False):
        raise UserError("this InternVL checkpoint cuts tiles without a thumbnail; the native processor always adds one")
    return GotOcr2ImageProcessorPil(
        size={"height": side, "width": side},
        crop_to_patches=tiles,
        min_patches=config.get("min_dynamic_patch", 1),
        max_patches=config.get("max_dynamic_patch", 12),
        image_mean=list(IMAGENET_DEFAULT_MEAN),
        image_std=list(IMAGENET_DEFAULT_STD),
        resample=PILImageResampling.BICUBIC,
    )
