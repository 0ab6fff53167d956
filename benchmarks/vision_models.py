"""Vision models of random weights in the published shapes: LLaVA 1.6 (CLIP, anyres tiles) and InternVL (tiles of 256
tokens)."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from common import PICTURES, make_tokenizer, text_sizes

PATCH = 14
CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
STEPS = {"do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True, "resample": 3}
FIRST = 5  # id of the first of PICTURES


def make_vision_model(options: argparse.Namespace, picture: str, folder: Path) -> dict[str, int]:
    """Write model, tokenizer and processor. Gives the parameters: in all, of the language model, of the tower."""
    import torch
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(options.seed)
    config, files, shown = {"llava": _llava, "internvl": _internvl}[picture](options)
    kind = torch.bfloat16 if options.hidden > 1000 else torch.float32
    model = AutoModelForImageTextToText.from_config(config, dtype=kind)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embed" not in name:
                weight.normal_(0, weight[0].numel() ** -0.5)
    model.save_pretrained(folder)
    make_tokenizer(folder, options.vocabulary, shown)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    counts = {"tower": "vision_tower.", "language": "language_model."}
    sizes = {
        ours: sum(weight.numel() for name, weight in model.named_parameters() if theirs in name or _head(ours, name))
        for ours, theirs in counts.items()
    }
    return {"parameters": sum(weight.numel() for weight in model.parameters()), **sizes}


def _head(part: str, name: str) -> bool:
    return part == "language" and name.startswith("lm_head")


def _tower(options: argparse.Namespace) -> dict[str, int]:
    width, layers, heads = options.tower
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


def _text(options: argparse.Namespace) -> dict[str, Any]:
    return text_sizes(options) | {"max_position_embeddings": 8192, "tie_word_embeddings": False}


def _llava(options: argparse.Namespace) -> tuple[Any, dict[str, Any], str]:
    from transformers import CLIPVisionConfig, LlavaNextConfig, MistralConfig

    tile = options.tile
    points = [[tile, 2 * tile], [2 * tile, tile], [2 * tile, 2 * tile], [3 * tile, tile], [tile, 3 * tile]]
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**_tower(options), image_size=tile, patch_size=PATCH, projection_dim=64),
        text_config=MistralConfig(**_text(options), sliding_window=None),
        image_token_index=FIRST,
        image_grid_pinpoints=points,
        image_seq_length=(tile // PATCH) ** 2,
        tie_word_embeddings=False,
    )
    files = {
        "preprocessor_config.json": {
            "image_processor_type": "LlavaNextImageProcessor",
            "processor_class": "LlavaNextProcessor",
            **STEPS,
            **CLIP,
            "do_center_crop": True,
            "do_pad": True,
            "size": {"shortest_edge": tile},
            "crop_size": {"height": tile, "width": tile},
            "image_grid_pinpoints": points,
        },
        "processor_config.json": {
            "processor_class": "LlavaNextProcessor",
            "image_token": "<image>",
            "num_additional_image_tokens": 1,
            "patch_size": PATCH,
            "vision_feature_select_strategy": "default",
        },
    }
    return config, files, "<image>"


def _internvl(options: argparse.Namespace) -> tuple[Any, dict[str, Any], str]:
    from transformers import InternVLConfig, InternVLVisionConfig, Qwen2Config

    tile = options.tile
    tokens = (tile // PATCH // 2) ** 2
    vision = {"image_size": [tile, tile], "patch_size": [PATCH, PATCH], "attention_bias": True}
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(**_tower(options), **vision),
        text_config=Qwen2Config(**_text(options)),
        image_token_id=FIRST + PICTURES.index("<IMG_CONTEXT>"),
        image_seq_length=tokens,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    common = {"processor_class": "InternVLProcessor", **STEPS, **IMAGENET, "size": {"height": tile, "width": tile}}
    tiled = {"crop_to_patches": True, "min_patches": 1, "max_patches": 12}
    files = {
        "preprocessor_config.json": {"image_processor_type": "GotOcr2ImageProcessor", **common, **tiled},
        "processor_config.json": {"processor_class": "InternVLProcessor", "image_seq_length": tokens},
        "video_preprocessor_config.json": {"video_processor_type": "InternVLVideoProcessor", **common},
    }
    return config, files, "<IMG_CONTEXT>"
