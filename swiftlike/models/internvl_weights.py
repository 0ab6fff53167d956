"""Names and fused tensors of OpenGVLab's InternVL layout, turned into those of transformers' native InternVL."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import torch
from transformers import InternVLConfig

from swiftlike.core.errors import UserError

# Published name: native name. `{part}` stands for q, k and v: one fused tensor becomes three.
_TOWER, _LAYER = "model.vision_tower.embeddings", r"model.vision_tower.encoder.layer.\1"
_TEXT_LAYER = r"model.language_model.layers.\1"
_NAMES = [
    (r"vision_model\.embeddings\.class_embedding", f"{_TOWER}.cls_token"),
    (r"vision_model\.embeddings\.position_embedding", f"{_TOWER}.position_embeddings"),
    (r"vision_model\.embeddings\.patch_embedding\.(weight|bias)", rf"{_TOWER}.patch_embeddings.projection.\1"),
    (r"vision_model\.encoder\.layers\.(\d+)\.ls([12])", rf"{_LAYER}.lambda_\2"),
    (r"vision_model\.encoder\.layers\.(\d+)\.norm1\.(weight|bias)", rf"{_LAYER}.layernorm_before.\2"),
    (r"vision_model\.encoder\.layers\.(\d+)\.norm2\.(weight|bias)", rf"{_LAYER}.layernorm_after.\2"),
    (r"vision_model\.encoder\.layers\.(\d+)\.(mlp\.fc[12]\.(?:weight|bias))", rf"{_LAYER}.\2"),
    (r"vision_model\.encoder\.layers\.(\d+)\.attn\.([qk]_norm\.weight)", rf"{_LAYER}.attention.\2"),
    (r"vision_model\.encoder\.layers\.(\d+)\.attn\.proj\.(weight|bias)", rf"{_LAYER}.attention.projection_layer.\2"),
    (r"vision_model\.encoder\.layers\.(\d+)\.attn\.qkv\.(weight|bias)", rf"{_LAYER}.attention.{{part}}_proj.\2"),
    (r"mlp1\.0\.(weight|bias)", r"model.multi_modal_projector.layer_norm.\1"),
    (r"mlp1\.1\.(weight|bias)", r"model.multi_modal_projector.linear_1.\1"),
    (r"mlp1\.3\.(weight|bias)", r"model.multi_modal_projector.linear_2.\1"),
    # InternLM2
    (r"language_model\.model\.tok_embeddings\.weight", "model.language_model.embed_tokens.weight"),
    (r"language_model\.output\.weight", "lm_head.weight"),
    (r"language_model\.model\.layers\.(\d+)\.attention_norm\.weight", rf"{_TEXT_LAYER}.input_layernorm.weight"),
    (r"language_model\.model\.layers\.(\d+)\.ffn_norm\.weight", rf"{_TEXT_LAYER}.post_attention_layernorm.weight"),
    (r"language_model\.model\.layers\.(\d+)\.attention\.wo\.(weight|bias)", rf"{_TEXT_LAYER}.self_attn.o_proj.\2"),
    (
        r"language_model\.model\.layers\.(\d+)\.attention\.wqkv\.(weight|bias)",
        rf"{_TEXT_LAYER}.self_attn.{{part}}_proj.\2",
    ),
    (r"language_model\.model\.layers\.(\d+)\.feed_forward\.w1\.weight", rf"{_TEXT_LAYER}.mlp.gate_proj.weight"),
    (r"language_model\.model\.layers\.(\d+)\.feed_forward\.w2\.weight", rf"{_TEXT_LAYER}.mlp.down_proj.weight"),
    (r"language_model\.model\.layers\.(\d+)\.feed_forward\.w3\.weight", rf"{_TEXT_LAYER}.mlp.up_proj.weight"),
    # Llama, Qwen and Phi3 keep their names; the final norm is InternLM2's too
    (r"language_model\.model\.layers\.(\d+)\.self_attn\.([qk]_norm\.weight)", rf"{_TEXT_LAYER}.self_attn.\2"),
    (r"language_model\.lm_head\.weight", "lm_head.weight"),
    (r"language_model\.model\.((?:embed_tokens|norm)\.weight)", r"model.language_model.\1"),
    (
        r"language_model\.model\.layers\.(\d+)\.((?:input|post_attention)_layernorm\.weight)",
        rf"{_TEXT_LAYER}.\2",
    ),
    (
        r"language_model\.model\.layers\.(\d+)\.((?:self_attn\.(?:q|k|v|o|qkv)|mlp\.(?:gate|up|down|gate_up))_proj\.(?:weight|bias))",
        rf"{_TEXT_LAYER}.\2",
    ),
]
_RULES = [(re.compile(pattern), native) for pattern, native in _NAMES]
_BUFFER = re.compile(r"language_model\..*\.rotary_emb\.inv_freq")  # computed from the configuration


def convert_state(
    tensors: Iterable[tuple[str, torch.Tensor]], config: InternVLConfig
) -> Iterator[tuple[str, torch.Tensor]]:
    """Native (name, tensor) pairs, one published tensor at a time; only fused tensors are copied.

    `config` is the native configuration: it holds the head counts that split InternLM2's fused rows. UserError at the
    end of the stream naming every tensor that is not part of the layout.
    """
    unknown = []
    for name, tensor in tensors:
        native = _native_name(name)
        if native is None:
            if not _BUFFER.fullmatch(name):
                unknown.append(name)
        elif "{part}" not in native:
            yield native, tensor
        else:
            split = _split_vision if name.startswith("vision_model.") else _split_internlm2
            for part, rows in zip("qkv", split(tensor, config), strict=True):
                yield native.format(part=part), rows
    if unknown:
        raise UserError("the checkpoint holds tensors that are not part of OpenGVLab's InternVL layout", "", unknown)


def _native_name(name: str) -> str | None:
    for pattern, native in _RULES:
        match = pattern.fullmatch(name)
        if match:
            return match.expand(native)
    return None


def _split_vision(fused: torch.Tensor, config: InternVLConfig) -> tuple[torch.Tensor, ...]:
    """Rows are all queries, all keys, all values."""
    return tuple(rows.clone() for rows in fused.split(config.vision_config.hidden_size))


def _split_internlm2(fused: torch.Tensor, config: InternVLConfig) -> tuple[torch.Tensor, ...]:
    """Rows come per key/value head: its queries, then its key, then its value."""
    text = config.text_config
    groups = text.num_attention_heads // text.num_key_value_heads
    heads = fused.unflatten(0, (text.num_key_value_heads, groups + 2, text.head_dim))
    return tuple(rows.flatten(0, 2).clone() for rows in heads.split([groups, 1, 1], dim=1))
