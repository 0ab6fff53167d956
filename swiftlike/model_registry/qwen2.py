"""Qwen 1.5, 2 and 2.5 with their coding and mathematics models, QwQ; text. Qwen2-MoE."""

import dataclasses as dc

from swiftlike.model_registry.card import Checkpoint, ModelCard
from swiftlike.model_registry.chatml import CHATML

QWEN = dc.replace(
    CHATML,
    name="qwen",
    aliases=(),
    default_system="You are a helpful assistant.",
    tool="<tool_response>\n{query}\n</tool_response>",
    stop_words=("<|endoftext|>",),
)
QWEN2_5 = dc.replace(
    QWEN, name="qwen2_5", default_system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
)
# v2 gives the mathematics models the text of the others; this one is in their own template.
QWEN2_5_MATH = dc.replace(
    QWEN,
    name="qwen2_5-math",
    aliases=("qwen2_5_math",),
    default_system="Please reason step by step, and put your final answer within \\boxed{}.",
)
QWQ = dc.replace(
    QWEN,
    name="qwq",  # of v2, the preview; v4 uses the name for its successor
    aliases=("qwq_preview",),
    default_system="You are a helpful and harmless assistant. You are Qwen developed by Alibaba. "
    "You should think step-by-step.",
)

_BASE = "default-generation"
_GPTQ = (("int4", "GPTQ-Int4"), ("int8", "GPTQ-Int8"))


def _name(size: str) -> str:
    return size.lower().replace(".", "_")


def _sizes(name: str, id: str, sizes: str, chat: tuple[str, str], base: str = _BASE) -> dict[str, Checkpoint]:  # noqa: A002
    """Base and chat models of several sizes. `chat` is the ending of their name and their template."""
    ending, template = chat
    found = {}
    for size in sizes.split():
        found[name.format(_name(size))] = Checkpoint.same(f"Qwen/{id.format(size)}", template=base)
        found[f"{name.format(_name(size))}-{ending.lower()}"] = Checkpoint.same(
            f"Qwen/{id.format(size)}-{ending}", template=template
        )
    return found


def _quantised(name: str, id: str, sizes: str, template: str, gptq: str = "") -> dict[str, Checkpoint]:  # noqa: A002
    """AWQ and GPTQ forms of chat models. `gptq` is what v2 puts before int4 and int8 in the names."""
    found = {}
    for size in sizes.split():
        chat, hub = name.format(_name(size)), f"Qwen/{id.format(size)}"
        found[f"{chat}-awq"] = Checkpoint.same(f"{hub}-AWQ", template=template, quant="awq")
        for bits, ending in _GPTQ:
            found[f"{chat}-{gptq}{bits}"] = Checkpoint.same(f"{hub}-{ending}", template=template, quant="gptq")
    return found


_1_5 = "0.5B 1.8B 4B 7B 14B 32B 72B 110B"
_2 = "0.5B 1.5B 7B 72B"
_2_5 = "0.5B 1.5B 3B 7B 14B 32B 72B"
_CODER = "0.5B 1.5B 3B 7B 14B 32B"
# Qwen published no 8-bit form of these two.
_MISSING = {"qwen1half-32b-chat-int8", "qwen1half-110b-chat-int8"}

QWEN2 = ModelCard(
    name="qwen2",
    aliases=("qwen1half", "qwen2_5"),
    hf_types=("qwen2",),
    architectures=("Qwen2ForCausalLM",),
    checkpoints={
        **_sizes("qwen1half-{}", "Qwen1.5-{}", _1_5, ("Chat", "qwen")),
        **{
            name: one
            for name, one in _quantised("qwen1half-{}-chat", "Qwen1.5-{}-Chat", _1_5, "qwen").items()
            if name not in _MISSING
        },
        "codeqwen1half-7b": Checkpoint.same("Qwen/CodeQwen1.5-7B", template=_BASE),
        "codeqwen1half-7b-chat": Checkpoint.same("Qwen/CodeQwen1.5-7B-Chat", template="qwen"),
        "codeqwen1half-7b-chat-awq": Checkpoint.same("Qwen/CodeQwen1.5-7B-Chat-AWQ", template="qwen", quant="awq"),
        **_sizes("qwen2-{}", "Qwen2-{}", _2, ("Instruct", "qwen")),
        **_quantised("qwen2-{}-instruct", "Qwen2-{}-Instruct", _2, "qwen"),
        **_sizes("qwen2-math-{}", "Qwen2-Math-{}", "1.5B 7B 72B", ("Instruct", "qwen"), base="qwen"),
        **_sizes("qwen2_5-{}", "Qwen2.5-{}", _2_5, ("Instruct", "qwen2_5")),
        **_quantised("qwen2_5-{}-instruct", "Qwen2.5-{}-Instruct", _2_5, "qwen2_5", gptq="gptq-"),
        **_sizes("qwen2_5-math-{}", "Qwen2.5-Math-{}", "1.5B 7B 72B", ("Instruct", "qwen2_5-math")),
        **_sizes("qwen2_5-coder-{}", "Qwen2.5-Coder-{}", _CODER, ("Instruct", "qwen2_5")),
        **_quantised("qwen2_5-coder-{}-instruct", "Qwen2.5-Coder-{}-Instruct", _CODER, "qwen2_5", gptq="gptq-"),
        "qwq-32b-preview": Checkpoint.same("Qwen/QwQ-32B-Preview", template="qwq"),
    },
)

# Experts are stacked tensors, not linear layers, in transformers 5: LoRA reaches attention and the shared expert.
QWEN2_MOE = ModelCard(
    name="qwen2_moe",
    hf_types=("qwen2_moe",),
    architectures=("Qwen2MoeForCausalLM",),
    checkpoints={
        "qwen1half-moe-a2_7b": Checkpoint.same("Qwen/Qwen1.5-MoE-A2.7B", template=_BASE),
        "qwen1half-moe-a2_7b-chat": Checkpoint.same("Qwen/Qwen1.5-MoE-A2.7B-Chat", template="qwen"),
        "qwen1half-moe-a2_7b-chat-int4": Checkpoint.same(
            "Qwen/Qwen1.5-MoE-A2.7B-Chat-GPTQ-Int4", template="qwen", quant="gptq"
        ),
        "qwen2-57b-a14b": Checkpoint.same("Qwen/Qwen2-57B-A14B", template=_BASE),
        "qwen2-57b-a14b-instruct": Checkpoint.same("Qwen/Qwen2-57B-A14B-Instruct", template="qwen"),
        "qwen2-57b-a14b-instruct-int4": Checkpoint.same(
            "Qwen/Qwen2-57B-A14B-Instruct-GPTQ-Int4", template="qwen", quant="gptq"
        ),
    },
)
