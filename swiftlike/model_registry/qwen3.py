"""Qwen 3, text. One checkpoint thinks or not as it is asked; those of July 2025 do only one of the two."""

import dataclasses as dc

from swiftlike.model_registry.card import Checkpoint, ModelCard, Quant
from swiftlike.model_registry.qwen2 import QWEN

# No default system message. An answer that brings no <think> block gets an empty one, as in the checkpoints' own
# template, and it counts as part of the answer; earlier answers lose theirs.
QWEN3_TEMPLATE = dc.replace(QWEN, name="qwen3", default_system="", thought="<think>\n\n</think>\n\n")
QWEN3_INSTRUCT = dc.replace(QWEN3_TEMPLATE, name="qwen3-instruct", aliases=("qwen3_nothinking",), thought="")

_BASE, _THINKS = "default-generation", "chat_template"  # the thinking ones open <think> in the prompt themselves


def _qwen(id: str, template: str = "qwen3", quant: Quant = "") -> Checkpoint:  # noqa: A002
    return Checkpoint.same(f"Qwen/{id}", template=template, quant=quant)


_SIZES = {"0_6b": "0.6B", "1_7b": "1.7B", "4b": "4B", "8b": "8B", "14b": "14B", "32b": "32B"}

QWEN3 = ModelCard(
    name="qwen3",
    hf_types=("qwen3",),
    architectures=("Qwen3ForCausalLM",),
    checkpoints={
        **{f"qwen3-{name}-base": _qwen(f"Qwen3-{size}-Base", _BASE) for name, size in _SIZES.items() if name != "32b"},
        **{f"qwen3-{name}": _qwen(f"Qwen3-{size}") for name, size in _SIZES.items()},
        **{f"qwen3-{name}-fp8": _qwen(f"Qwen3-{size}-FP8", quant="fp8") for name, size in _SIZES.items()},
        **{f"qwen3-{name}-awq": _qwen(f"Qwen3-{_SIZES[name]}-AWQ", quant="awq") for name in ("4b", "8b", "14b", "32b")},
        "qwen3-4b-instruct-2507": _qwen("Qwen3-4B-Instruct-2507", "qwen3-instruct"),
        "qwen3-4b-thinking-2507": _qwen("Qwen3-4B-Thinking-2507", _THINKS),
    },
)

# Experts are stacked tensors, not linear layers, in transformers 5: LoRA reaches the attention only.
QWEN3_MOE = ModelCard(
    name="qwen3_moe",
    hf_types=("qwen3_moe",),
    architectures=("Qwen3MoeForCausalLM",),
    checkpoints={
        "qwen3-30b-a3b-base": _qwen("Qwen3-30B-A3B-Base", _BASE),
        "qwen3-30b-a3b": _qwen("Qwen3-30B-A3B"),
        "qwen3-235b-a22b": _qwen("Qwen3-235B-A22B"),
        **{
            f"qwen3-{name}-{kind.lower()}-2507": _qwen(f"Qwen3-{size}-{kind}-2507", template)
            for name, size in (("30b-a3b", "30B-A3B"), ("235b-a22b", "235B-A22B"))
            for kind, template in (("Instruct", "qwen3-instruct"), ("Thinking", _THINKS))
        },
    },
)
