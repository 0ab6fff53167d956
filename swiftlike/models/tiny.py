"""Built-in models of half a million random weights: ordinary folders, made from a configuration and a seed.

They need no download, so that every command can be tried and tested anywhere. A folder has what a published one has:
config.json, model.safetensors, generation_config.json, tokenizer and chat template, processor files. Random weights
are drawn at the scale at which signals keep their size through the layers (standard deviation 1 / sqrt(inputs)), not
at the small scale that training from scratch starts from: a picture then moves the logits from the start, and
LoRA alone, with the rest frozen, can learn to use it. Token embeddings are drawn smaller.
"""

from __future__ import annotations

import contextlib
import dataclasses as dc
import hashlib
import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from swiftlike.core.cache import cache_folder
from swiftlike.core.errors import UserError, suggestion

SEED = 20_26
VOCABULARY = 704  # tokens; a multiple of 64, and every one of them is a token that the tokenizer knows
TILE, PATCH = 64, 16  # pixels; 16 patches a tile
HIDDEN = 128  # width of the language models
EMBEDDING = 0.1  # standard deviation; small, so that what attention brings in soon outweighs the token itself
PAD, STOP = "<|endoftext|>", "<|im_end|>"
CHATML = (PAD, "<|im_start|>", STOP)

# What the tokenizer is trained on. Words that shall be one token stand both at the start of a line and after a space.
SENTENCES = (
    "You are a helpful assistant.\nuser\nassistant\nsystem\n",
    "What is in the picture? There is a small red square on a blue field.",
    "What colour is the circle? What colour is the square? What colour is the triangle? What shape is this?",
    "Which shape is on the left? Which colour is on the right? Look at the image, then answer in one word.",
    "Which of these is a fruit: apple or hammer? Which one is an animal: horse or purple? Pick the tool.",
    "A preference pair has a chosen answer and a rejected answer to the same prompt; the policy learns to prefer one.",
    "Describe the image in one sentence. Count the objects, name the colours, and say where each thing is.",
    "The quick brown fox jumps over the lazy dog, while the early bird finds something good to eat.",
    "0 1 2 3 4 5 6 7 8 9 10 11 12 20 50 100 plus minus times equals less more first last true false yes no",
    "I do not know. It is a question of taste. Please write a short story about people who work with their hands.",
    "Water, fire, earth and air; morning, evening, summer, winter; north, south, east and west; up and down.",
    "def add(left, right):\n    return left + right\n\nprint(add(1, 2))  # a short program\n",
)
WORDS = (
    *("red", "green", "blue", "yellow", "purple", "orange", "black", "white", "circle", "square", "triangle"),
    *("apple", "pear", "plum", "grape", "lemon", "cherry", "hammer", "saw", "drill", "wrench", "pliers", "chisel"),
    *("horse", "goat", "sheep", "tiger", "rabbit", "otter", "left", "right", "top", "bottom", "yes", "no"),
)


@dc.dataclass(frozen=True)
class Family:
    """How one built-in model is made. `config` gets token ids by name and returns a transformers configuration."""

    config: Callable[[Callable[[str], int]], Any]
    picture: str = ""  # what stands for a picture in the chat template; empty: a text model
    tokens: tuple[str, ...] = ()  # special tokens besides those of ChatML
    named: Mapping[str, str] = dc.field(default_factory=dict)  # the tokenizer's attributes that a processor reads
    files: Mapping[str, Mapping[str, Any]] = dc.field(default_factory=dict)  # processor files
    stored: tuple[tuple[str, str], ...] = ()  # prefix as transformers 5 writes it, prefix of published checkpoints


def _text(**more: Any) -> dict[str, Any]:
    size = {"hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}  # 32 wide: the least vLLM's CPU kernels take
    ids = {"bos_token_id": None, "eos_token_id": CHATML.index(STOP), "pad_token_id": CHATML.index(PAD)}
    limits = {"vocab_size": VOCABULARY, "max_position_embeddings": 4096, "tie_word_embeddings": False}
    return {**size, **heads, **ids, **limits, **more}


def _llama(_: Callable[[str], int]) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(**_text())


def _qwen3(_: Callable[[str], int]) -> Any:
    from transformers import Qwen3Config

    return Qwen3Config(**_text(head_dim=HIDDEN // 4))


VISION = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
PINPOINTS = [[64, 64], [64, 128], [128, 64], [128, 128]]


def _llava_next(token: Callable[[str], int]) -> Any:
    from transformers import CLIPVisionConfig, LlavaNextConfig, MistralConfig

    return LlavaNextConfig(
        vision_config=CLIPVisionConfig(**VISION, image_size=TILE, patch_size=PATCH, projection_dim=64),
        text_config=MistralConfig(**_text(head_dim=HIDDEN // 4, sliding_window=None)),
        image_token_index=token("<image>"),
        image_grid_pinpoints=PINPOINTS,
        image_seq_length=16,
        tie_word_embeddings=False,
    )


def _internvl(token: Callable[[str], int]) -> Any:
    from transformers import InternVLConfig, InternVLVisionConfig, Qwen2Config

    return InternVLConfig(
        vision_config=InternVLVisionConfig(**VISION, image_size=[TILE, TILE], patch_size=[8, 8], attention_bias=True),
        text_config=Qwen2Config(**_text()),
        image_token_id=token("<IMG_CONTEXT>"),
        image_seq_length=16,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )


def _qwen2_5_vl(token: Callable[[str], int]) -> Any:
    from transformers import Qwen2_5_VLConfig

    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]}  # sums to half a head
    vision = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": HIDDEN}
    patches = {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
    return Qwen2_5_VLConfig(
        text_config=_text(rope_parameters=rope),
        vision_config={**vision, **patches, "window_size": 112, "fullatt_block_indexes": [1]},
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=False,
    )


CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
STEPS = {"do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True, "resample": 3}
QWEN_IMAGE = {**STEPS, **CLIP, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
QWEN_PIXELS = {"min_pixels": 112 * 112, "max_pixels": 224 * 224}  # 16 to 64 tokens a picture

FAMILIES = {
    "tiny-llama": Family(_llama),
    "tiny-qwen3": Family(_qwen3),
    "tiny-llava1_6": Family(
        _llava_next,
        "<image>\n",
        ("<image>",),
        {"image_token": "<image>"},
        {
            "preprocessor_config.json": {
                "image_processor_type": "LlavaNextImageProcessor",
                "processor_class": "LlavaNextProcessor",
                **STEPS,
                **CLIP,
                "do_center_crop": True,
                "do_pad": True,
                "size": {"shortest_edge": TILE},
                "crop_size": {"height": TILE, "width": TILE},
                "image_grid_pinpoints": PINPOINTS,
            },
            "processor_config.json": {
                "processor_class": "LlavaNextProcessor",
                "image_token": "<image>",
                "num_additional_image_tokens": 1,
                "patch_size": PATCH,
                "vision_feature_select_strategy": "default",
            },
        },
        (("vision_tower.", "vision_tower.vision_model."),),
    ),
    "tiny-internvl3": Family(
        _internvl,
        "<IMG_CONTEXT>\n",
        ("<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        {
            "preprocessor_config.json": {
                "image_processor_type": "GotOcr2ImageProcessor",
                "processor_class": "InternVLProcessor",
                **STEPS,
                **IMAGENET,
                "size": {"height": TILE, "width": TILE},
                "crop_to_patches": True,
                "min_patches": 1,
                "max_patches": 4,
            },
            "processor_config.json": {"processor_class": "InternVLProcessor", "image_seq_length": 16},
            "video_preprocessor_config.json": {
                "video_processor_type": "InternVLVideoProcessor",
                "processor_class": "InternVLProcessor",
                **STEPS,
                **IMAGENET,
                "size": {"height": TILE, "width": TILE},
            },
        },
    ),
    "tiny-qwen2_5-vl": Family(
        _qwen2_5_vl,
        "<|vision_start|><|image_pad|><|vision_end|>",
        ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
        {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
        {
            "preprocessor_config.json": {
                "image_processor_type": "Qwen2VLImageProcessor",
                "processor_class": "Qwen2_5_VLProcessor",
                **QWEN_IMAGE,
                **QWEN_PIXELS,
            },
            "video_preprocessor_config.json": {
                "video_processor_type": "Qwen2VLVideoProcessor",
                "processor_class": "Qwen2_5_VLProcessor",
                **QWEN_IMAGE,
                **QWEN_PIXELS,
            },
        },
    ),
}


def _chat_template(picture: str) -> str:
    line = "{{ '\\n' }}"  # `{%-` and `-%}` would eat a bare one
    return (
        "{%- for message in messages -%}<|im_start|>{{ message['role'] }}"
        + line
        + "{%- if message['content'] is string -%}"
        "{{ message['content'] }}{%- else -%}{%- for part in message['content'] -%}"
        f"{{%- if part['type'] == 'image' -%}}{picture.replace(chr(10), line)}"
        "{%- elif part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}"
        "{%- endfor -%}{%- endif -%}<|im_end|>" + line + "{%- endfor -%}"
        "{%- if add_generation_prompt -%}<|im_start|>assistant" + line + "{%- endif -%}"
    )


def _tokenizer(family: Family) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[*CHATML, *family.tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([*SENTENCES, *(f"{word}\nthe {word}" for word in WORDS * 8)], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=STOP,
        pad_token=PAD,
        model_specific_special_tokens=dict(family.named),
        padding_side="right",
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _chat_template(family.picture)
    if len(tokenizer) != VOCABULARY:
        raise AssertionError(f"the tokenizer has {len(tokenizer)} tokens, the model {VOCABULARY}")
    return tokenizer


def _draw(model: Any) -> None:
    """Fill the weights: norms 1, biases 0, matrices normal with standard deviation 1 / sqrt(inputs)."""
    import torch

    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if name.endswith("bias"):
                weight.zero_()
            elif "lambda_" in name:  # InternVL's gain of each vision layer
                weight.fill_(0.5)
            elif weight.ndim == 1 and name.endswith("weight"):
                weight.fill_(1.0)
            else:
                weight.normal_(0.0, _spread(name, weight), generator=generator)


def _spread(name: str, weight: Any) -> float:
    if "embed_tokens" in name:
        return EMBEDDING
    if weight.ndim == 1 or "position_embedding" in name or "cls_token" in name:  # added or put in as they are
        return 1.0
    return weight[0].numel() ** -0.5


def _write_model(family: Family, tokenizer: Any, folder: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.utils import logging

    auto = AutoModelForImageTextToText if family.picture else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        model = auto.from_config(family.config(tokenizer.convert_tokens_to_ids), dtype=torch.float32)
    _draw(model)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # one for a file of 2 MB would only be noise in a run's log
    try:
        model.save_pretrained(folder)
    finally:
        if bars:
            logging.enable_progress_bar()
    if family.stored:
        weights = load_file(folder / "model.safetensors")
        for ours, published in family.stored:
            weights = {
                name.replace(ours, published, 1) if name.startswith(ours) and published not in name else name: weight
                for name, weight in weights.items()
            }
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def build(name: str, folder: Path | None = None) -> Path:
    """Write the built-in model `name` to `folder`, by default in the cache, in one step, and return the folder.

    A model that is there is left as it is: of several processes that build at once one wins and all find the same.
    UserError when there is no built-in model of that name, or something else is in the folder.
    """
    if name not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UserError(f"unknown built-in model {name!r}{suggestion(name, FAMILIES)}", f"there are {known}")
    folder = Path(folder or _cache(name))
    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        family = FAMILIES[name]
        tokenizer = _tokenizer(family)
        _write_model(family, tokenizer, draft)
        tokenizer.save_pretrained(draft)
        for file, content in family.files.items():
            (draft / file).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        draft.chmod(0o755)
        with contextlib.suppress(OSError):  # another process was first: its folder is the same
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    if not (folder / "config.json").is_file():
        raise UserError(f"cannot write the built-in model to {folder}", "it is not empty, or not a folder")
    return folder


def cached(name: str) -> Path:
    """The folder of the built-in model `name` in the cache, made if missing."""
    return build(name)


def _cache(name: str) -> Path:
    """Ends in a digest of this file and of the transformers version, so that an old folder is never taken."""
    made_by = Path(__file__).read_bytes() + importlib.metadata.version("transformers").encode()
    digest = hashlib.sha256(made_by).hexdigest()[:12]
    return cache_folder("models") / f"{name}-{digest}"
