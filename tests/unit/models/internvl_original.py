"""Tiny InternVL checkpoints in OpenGVLab's layout, made from a recipe, and what OpenGVLab's own code answers on them.

`tests/golden/internvl_chat.json` holds per case the configuration, the names and shapes of the tensors, the inputs and
the logits of the original code. Values follow from the names alone (integers of torch's CPU generator), so the file
stays small. To write it again: fetch `internvl_chat/internvl` of github.com/OpenGVLab/InternVL into a folder, install
einops, and run this file with SWIFTLIKE_INTERNVL_ORIGINAL naming the folder.
"""

import copy
import importlib
import json
import os
import sys
import types
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

GOLDEN = Path(__file__).parents[2] / "golden" / "internvl_chat.json"
IMAGE_TOKEN = 40

VIT = {
    "architectures": ["InternVisionModel"],
    "model_type": "intern_vit_6b",
    "hidden_size": 24,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "image_size": 56,
    "patch_size": 14,
    "qkv_bias": True,
    "qk_normalization": False,
    "norm_type": "layer_norm",
    "layer_norm_eps": 1e-6,
    "drop_path_rate": 0.0,
    "use_flash_attn": False,
}
VIT_6B = VIT | {"qkv_bias": False, "qk_normalization": True, "norm_type": "rms_norm"}
LLM = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_beams": 1,  # published files carry generation fields
    "top_k": 50,
    "torch_dtype": "float32",
}
INTERNLM2 = LLM | {
    "architectures": ["InternLM2ForCausalLM"],
    "model_type": "internlm2",
    "auto_map": {"AutoConfig": "configuration_internlm2.InternLM2Config"},
    "bias": False,
    "pad_token_id": 2,
    "rope_theta": 1000000,
    "rope_scaling": {"factor": 2.0, "type": "dynamic"},
}
QWEN2 = LLM | {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "rope_theta": 1000000.0,
    "use_sliding_window": False,
    "sliding_window": 8,
    "max_window_layers": 1,
}
LLAMA = LLM | {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "rope_theta": 500000.0,
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 16,
        "rope_type": "llama3",
    },
}
PHI3 = LLM | {
    "architectures": ["Phi3ForCausalLM"],
    "model_type": "phi3",
    "num_key_value_heads": 4,
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 16,
    "rope_scaling": {"type": "su", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 4.0, 8.0]},
    "sliding_window": 262144,
    "pad_token_id": 2,
    "use_cache": False,
}
QWEN3 = LLM | {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "head_dim": 16,
    "rope_theta": 1000000,
    "rope_scaling": None,
    "attention_bias": False,
}
# name: vision, language model, changes to the rest, prompt (number: text tokens, negative: tiles)
CASES = {
    "internlm2_gqa_one_tile": (VIT, INTERNLM2, {}, [3, -1, 5]),
    "internlm2_gqa_three_tiles": (VIT, INTERNLM2, {}, [3, -3, 5]),
    "internlm2_two_pictures": (VIT, INTERNLM2, {}, [2, -1, 3, -2, 4]),
    "internlm2_bias_mha_qk_norm": (VIT_6B, INTERNLM2 | {"bias": True, "num_key_value_heads": 4}, {}, [3, -2, 5]),
    "internlm2_one_kv_head_linear_rope": (
        VIT,
        INTERNLM2 | {"num_key_value_heads": 1, "rope_scaling": {"factor": 4.0, "type": "linear"}},
        {},
        [3, -1, 9],
    ),
    "internlm2_no_rope_scaling": (VIT, INTERNLM2 | {"rope_scaling": None}, {}, [3, -1, 5]),
    "internlm2_longer_than_rope": (VIT, INTERNLM2 | {"max_position_embeddings": 16}, {}, [5, -2, 25]),
    "qwen2_gqa_three_tiles": (VIT, QWEN2, {}, [3, -3, 5]),
    "qwen2_dynamic_rope": (
        VIT,
        QWEN2
        | {
            "max_position_embeddings": 16,
            "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
        },
        {},
        [5, -1, 15],
    ),
    "qwen3_one_tile": (VIT, QWEN3, {}, [3, -1, 5]),
    "qwen2_qk_norm": (VIT_6B, QWEN2, {}, [3, -1, 5]),
    "llama3_rope_qk_norm": (VIT_6B, LLAMA, {}, [3, -2, 14]),
    "llama_plain_one_tile": (VIT, LLAMA | {"rope_scaling": None, "num_key_value_heads": 4}, {}, [3, -1, 5]),
    "phi3_short_rope": (VIT, PHI3, {}, [3, -1, 5]),
    "phi3_long_rope": (VIT, PHI3, {}, [5, -2, 20]),
    "select_layer": (VIT, INTERNLM2, {"select_layer": -2}, [3, -1, 5]),
    "force_image_size": (VIT | {"image_size": 28}, INTERNLM2, {"force_image_size": 56}, [3, -2, 5]),
    "quarter_downsample": (VIT, QWEN2, {"downsample_ratio": 0.25}, [3, -2, 5]),
}


def published_config(vision, llm, changes):
    """config.json as OpenGVLab publishes it."""
    return {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "auto_map": {"AutoModel": "modeling_internvl_chat.InternVLChatModel"},
        "vision_config": vision,
        "llm_config": llm,
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": vision["image_size"],
        "max_dynamic_patch": 12,
        "min_dynamic_patch": 1,
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internlm2-chat",
        "torch_dtype": "float32",
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "use_thumbnail": True,
    } | changes


def uniform(name, shape):
    """Values in [-1, 1] that follow from the name."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randint(-1024, 1025, tuple(shape), generator=generator).float() / 1024


def tensor(case, name, shape):
    """A tensor of the checkpoint: weights of size 1 / sqrt(inputs), gains around 1, small biases."""
    values = uniform(f"{case}/{name}", shape)
    if name.endswith("bias"):
        return values * 0.25
    if len(shape) == 1:
        return 1 + values * 0.5
    fan_in = 1 if "embed" in name and "patch" not in name else int(torch.tensor(shape[1:]).prod())
    return values * (3 / fan_in) ** 0.5


def inputs(case, config, prompt):
    """(pixel_values, input_ids) of a prompt: text tokens and tiles alternate as the recipe says."""
    side = config["force_image_size"]
    per_tile = int((side // config["vision_config"]["patch_size"]) ** 2 * config["downsample_ratio"] ** 2)
    tiles = sum(-part for part in prompt if part < 0)
    ids = []
    for number, part in enumerate(prompt):
        text = (uniform(f"{case}/text{number}", [max(part, 0)]) * 16 + 20).long().tolist()
        ids += text if part > 0 else [IMAGE_TOKEN] * (-part * per_tile)
    return uniform(f"{case}/pixels", (tiles, 3, side, side)) * 2, torch.tensor([ids])


def write_checkpoint(folder, case, config, shapes, shards=2):
    """A folder in the published layout: config.json, sharded safetensors with an index, the tokenizer's token list."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tokens = {str(IMAGE_TOKEN): {"content": "<IMG_CONTEXT>", "special": True}}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": tokens}))
    names, where = list(shapes), {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensor(case, name, shapes[name]) for name in names[number::shards]}
        where |= dict.fromkeys(part, file)
        save_file(part, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


def original_model(folder, config):
    """The original model on the folder's configuration, from the fetched sources in `folder`."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    if "timm" not in sys.modules:  # one class of it is imported, and unused: every drop path rate here is 0
        stand_in = types.ModuleType("timm.models.layers")
        stand_in.DropPath = torch.nn.Identity
        sys.modules |= {"timm": types.ModuleType("timm"), "timm.models": types.ModuleType("timm.models")}
        sys.modules["timm.models.layers"] = stand_in
    source = importlib.import_module("internvl.model.internvl_chat")
    config, language = copy.deepcopy(config), None
    if config["llm_config"]["model_type"] == "qwen3":  # the original takes a ready language model too
        language = Qwen3ForCausalLM(Qwen3Config(**config["llm_config"]))
        config["llm_config"]["architectures"] = ["Qwen2ForCausalLM"]
    native = source.InternVLChatConfig(**copy.deepcopy(config))
    if (
        config["llm_config"]["model_type"] == "internlm2"
    ):  # transformers 5 rewrites the field; the original reads it raw
        type(native.llm_config).rope_scaling = config["llm_config"].get("rope_scaling")
    model = source.InternVLChatModel(native, language_model=language).eval()
    model.img_context_token_id = IMAGE_TOKEN
    return model


def original_logits(model, pixels, ids):
    """Logits of the original forward, (length, vocabulary)."""
    flags = torch.ones(len(pixels), 1, dtype=torch.long)
    with torch.no_grad():
        return model(pixel_values=pixels, input_ids=ids, image_flags=flags, return_dict=True).logits[0]


def write_golden(folder):
    """Run the original on every case and store what it says."""
    cases = []
    for case, (vision, llm, changes, prompt) in CASES.items():
        config = published_config(vision, llm, changes)
        model = original_model(folder, config)
        shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
        model.load_state_dict({name: tensor(case, name, shape) for name, shape in shapes.items()}, strict=True)
        pixels, ids = inputs(case, config, prompt)
        logits = [[float(f"{value:.9g}") for value in row] for row in original_logits(model, pixels, ids).tolist()]
        cases.append({"name": case, "config": config, "prompt": prompt, "shapes": shapes, "logits": logits})
    head = {
        "schema": "swiftlike-golden/1",
        "title": "logits of OpenGVLab's InternVLChatModel on tiny checkpoints in its own layout, float32, eager",
        "source": "github.com/OpenGVLab/InternVL internvl_chat/internvl/model at 2410d1d",
        "torch": torch.__version__,
    }
    lines = ",\n".join("  " + json.dumps(case) for case in cases)
    GOLDEN.write_text(json.dumps(head)[:-1] + ', "cases": [\n' + lines + "\n]}\n")


if __name__ == "__main__":
    write_golden(Path(os.environ["SWIFTLIKE_INTERNVL_ORIGINAL"]))
