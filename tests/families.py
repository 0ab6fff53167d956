"""A tiny random model of every family, built from its configuration in memory: two layers, heads of 16.

Weights are scaled up, so that a token that sees the wrong context gives visibly wrong numbers. `save` writes an
ordinary folder with tokenizer and processor.
"""

from __future__ import annotations

import functools
import inspect
import json
import random
import string
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from swiftlike.core.dotted import resolve
from swiftlike.data.vision import Adapter, ImageBudget
from swiftlike.model_registry import MODELS
from swiftlike.model_registry.card import ModelCard

SPECIAL = (
    *("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<image>", "<video>", "<img>", "</img>", "<IMG_CONTEXT>"),
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
)
TEXT = (
    *("llama", "qwen2", "qwen2-windows", "qwen3", "mistral", "mistral-window", "gemma", "gemma2", "gemma3_text"),
    *("phi", "phi3", "phi3-window"),
)
MROPE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
VISION = ("llava", "llava_next", "internvl", *MROPE)
WINDOW = 5  # tokens, far shorter than the rows of the tests
HIDDEN, TILE, PATCH = 32, 28, 7
CHATML = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
_SENTENCES = (
    "What is in the picture? A small red square on a blue field. Describe it in one sentence.",
    "user\nassistant\nsystem\nThe answer is yes or no; one two three four five six seven.",
)


# -- tokenizers ------------------------------------------------------------------------------------------------------


@functools.cache
def tokenizer(**named: str) -> Any:
    """Byte-level BPE, as Llama 3 and Qwen have it. `named` are the attributes that a processor reads."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=352, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(_SENTENCES * 4, trainer)
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="<|im_end|>",
        pad_token="<pad>",
        model_specific_special_tokens=named,
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = CHATML
    return made


@functools.cache
def prefix_space_tokenizer(scheme: str) -> Any:
    """Sentencepiece-like: spaces are part of words, and text given alone gets one in front ("first": at the very
    start only; "always": after every special token too)."""
    bpe = Tokenizer(models.BPE(byte_fallback=True))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True)
    bpe.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.BpeTrainer(
        vocab_size=260,
        special_tokens=["<unk>", *SPECIAL],
        initial_alphabet=[*string.printable.strip(), "\n"],
        show_progress=False,
    )
    bpe.train_from_iterator([*_SENTENCES, "[INST] Hi! [/INST] Hello.", "USER: ASSISTANT:"] * 3, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def token(name: str) -> int:
    """Id of a special token."""
    return tokenizer().convert_tokens_to_ids(name)


# -- configurations --------------------------------------------------------------------------------------------------


def _text(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer()),
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "pad_token_id": token("<pad>"),
        "bos_token_id": token("<s>"),
        "eos_token_id": token("<|im_end|>"),
        "tie_word_embeddings": False,
        **more,
    }


_MIXED = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
_TEXT_OPTIONS: dict[str, dict[str, Any]] = {
    "qwen2-windows": {"use_sliding_window": True, **_MIXED},
    "qwen3": {"head_dim": 16},
    "mistral": {"head_dim": 16, "sliding_window": None},
    "mistral-window": {"head_dim": 16, "sliding_window": WINDOW},
    "gemma": {"head_dim": 16, "tie_word_embeddings": True},
    "gemma2": {
        "head_dim": 16,
        "tie_word_embeddings": True,
        **_MIXED,
        "attn_logit_softcapping": 1.5,
        "final_logit_softcapping": 2.0,
    },
    "gemma3_text": {"head_dim": 16, "tie_word_embeddings": True, **_MIXED},
    "phi": {"num_key_value_heads": 2},
    "phi3-window": {"sliding_window": WINDOW},
}
_CLIP = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_GRIDS = [[TILE, 2 * TILE], [2 * TILE, TILE], [2 * TILE, 2 * TILE], [3 * TILE, TILE], [TILE, 3 * TILE]]
_TILED = {"image_size": TILE, "patch_size": PATCH}
_QWEN_VISION = {
    "qwen2_vl": {"depth": 2, "embed_dim": 32, "hidden_size": HIDDEN, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14},
    "qwen2_5_vl": {
        **{"depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": HIDDEN},
        **{"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]},
    },
    "qwen3_vl": {
        **{"depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": HIDDEN},
        **{"patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
    },
}
_NAMED = {
    "llava": {"image_token": "<image>"},
    "llava_next": {"image_token": "<image>"},
    "internvl": {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
    **{name: {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"} for name in MROPE},
}


_PROCESSORS = {
    "llava": "LlavaProcessor",
    "llava_next": "LlavaNextProcessor",
    "internvl": "InternVLProcessor",
    "qwen2_vl": "Qwen2VLProcessor",
    "qwen2_5_vl": "Qwen2_5_VLProcessor",
    "qwen3_vl": "Qwen3VLProcessor",
}


def family(name: str) -> str:
    """The registered family that a test model belongs to: its name without a variant."""
    return name.partition("-")[0]


def card(name: str) -> ModelCard:
    """What the registry says of it."""
    return MODELS.get(family(name))


def config(name: str) -> Any:
    """A fresh transformers configuration."""
    if name in TEXT:
        return transformers.AutoConfig.for_model(family(name), **_text(**_TEXT_OPTIONS.get(name, {})))
    return {"llava": _llava, "llava_next": _llava_next, "internvl": _internvl}.get(name, lambda: _qwen(name))()


def _llava() -> Any:
    return transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**_CLIP, **_TILED, projection_dim=16),
        text_config=transformers.LlamaConfig(**_text()),
        image_token_id=token("<image>"),
        image_seq_length=16,
        tie_word_embeddings=False,
    )


def _llava_next() -> Any:
    return transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**_CLIP, **_TILED, projection_dim=16),
        text_config=transformers.MistralConfig(**_text(head_dim=16, sliding_window=None)),
        image_token_index=token("<image>"),
        image_grid_pinpoints=[list(grid) for grid in _GRIDS],
        image_seq_length=16,
        tie_word_embeddings=False,
    )


def _internvl() -> Any:
    vision = {**_CLIP, "image_size": [TILE, TILE], "patch_size": [PATCH, PATCH]}
    return transformers.InternVLConfig(
        vision_config=transformers.InternVLVisionConfig(**vision),
        text_config=transformers.Qwen2Config(**_text()),
        image_token_id=token("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )


def _qwen(name: str) -> Any:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    more: dict[str, Any] = {}
    if name == "qwen3_vl":
        rope["mrope_interleaved"], more["head_dim"] = True, 16
    return transformers.AutoConfig.for_model(
        name,
        text_config=_text(rope_parameters=rope, **more),
        vision_config={**_QWEN_VISION[name], "spatial_merge_size": 2, "temporal_patch_size": 2},
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=False,
    )


# -- models and pictures ---------------------------------------------------------------------------------------------


def auto_class(name: str) -> Any:
    """The transformers auto class of a family."""
    return transformers.AutoModelForImageTextToText if name in VISION else transformers.AutoModelForCausalLM


def model(name: str, scale: float = 4.0, attention: str | None = None, seed: int = 0) -> Any:
    """A fresh model in evaluation mode, its matrices `scale` times their usual size."""
    kind = attention or card(name).attention[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = auto_class(name).from_config(config(name), attn_implementation=kind, dtype=torch.float32)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim >= 2:
                weight.mul_(scale)
    return made.eval()


def placeholder(name: str) -> int | None:
    """Id of the token that stands for one picture feature; None for text models."""
    vision = card(name).vision
    return vision and token(vision.placeholder)


def image_processor(name: str) -> Any:
    """A fresh image processor, PIL only."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    square = {"size": {"shortest_edge": TILE}, "crop_size": {"height": TILE, "width": TILE}}
    if name == "llava":
        return CLIPImageProcessorPil(**square)
    if name == "llava_next":
        return LlavaNextImageProcessorPil(image_grid_pinpoints=[list(grid) for grid in _GRIDS], **square)
    if name == "internvl":
        tiles = {"crop_to_patches": True, "min_patches": 1, "max_patches": 4}
        return GotOcr2ImageProcessorPil(size={"height": TILE, "width": TILE}, **tiles)
    patch = _QWEN_VISION[name]["patch_size"]
    pixels = {"shortest_edge": (2 * patch) ** 2, "longest_edge": 16 * (2 * patch) ** 2}  # 1 to 16 tokens
    return Qwen2VLImageProcessorPil(patch_size=patch, merge_size=2, temporal_patch_size=2, size=pixels)


def adapter(name: str, **budget: int) -> Adapter:
    """The family's adapter on a fresh processor and configuration."""
    vision = card(name).vision
    assert vision is not None
    return resolve(vision.adapter)(image_processor(name), config(name), ImageBudget(**budget))


def processor(name: str) -> Any:
    """transformers' own processor. Those with a video half need torchvision for it, so it is left out: transformers
    reads the parts from the argument list, hence the spelled-out ones."""
    cls = getattr(transformers, _PROCESSORS[name])
    words, pictures = tokenizer(**_NAMED[name]), image_processor(name)
    if name.startswith("llava"):
        strategy = {"vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
        return cls(pictures, words, patch_size=PATCH, image_token="<image>", **strategy)
    if "image_seq_length" in inspect.signature(cls.__init__).parameters:

        def intern(self, image_processor=None, tokenizer=None, image_seq_length=256, chat_template=None):
            cls.__init__(self, image_processor, tokenizer, None, image_seq_length, chat_template)

        return type(cls.__name__, (cls,), {"__init__": intern})(pictures, words, image_seq_length=4)

    def qwen(self, image_processor=None, tokenizer=None, chat_template=None):
        cls.__init__(self, image_processor, tokenizer, None, chat_template)

    return type(cls.__name__, (cls,), {"__init__": qwen})(pictures, words)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A plain field with a rectangle in it."""
    colours = np.random.default_rng(seed).integers(0, 255, (2, 3))
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = colours[0]
    pixels[height // 4 : height // 2 + 1, width // 4 : width // 2 + 1] = colours[1]
    return Image.fromarray(pixels)


def sizes(count: int, seed: int = 0, low: int = 12, high: int = 240) -> list[tuple[int, int]]:
    """Random (width, height) pairs."""
    chance = random.Random(seed)
    return [(chance.randint(low, high), chance.randint(low, high)) for _ in range(count)]


def save(name: str, folder: Path) -> Path:
    """Write model, tokenizer and image processor as an ordinary checkpoint folder."""
    model(name, scale=1.0).save_pretrained(folder)
    tokenizer(**_NAMED.get(name, {})).save_pretrained(folder)
    if name in VISION:
        image_processor(name).save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text())
    assert settings["model_type"] == family(name)
    return folder
