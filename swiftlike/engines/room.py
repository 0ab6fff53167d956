"""How many tokens may be computed at the same time before memory runs out."""

from __future__ import annotations

from typing import Any

import psutil
import torch

SHARE = {"cuda": 0.6, "cpu": 0.3}  # of what is free: caches are copied when answers enter and leave


def tokens_that_fit(model: Any) -> int:
    """Tokens whose keys and values fit into a share of the memory that is free now."""
    device = model.get_input_embeddings().weight.device
    on_card = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_card else psutil.virtual_memory().available
    return max(int(free * SHARE["cuda" if on_card else "cpu"]) // bytes_per_token(model), 1)


def bytes_per_token(model: Any) -> int:
    """Keys and values of one token in all layers."""
    text = model.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * size * model.dtype.itemsize
