"""LLaVA 1.6, called NeXT: a small view of the whole picture and a grid of tiles, over five language models."""

import dataclasses as dc
from collections.abc import Mapping
from typing import Any

from swiftlike.model_registry.card import Checkpoint, ModelCard, TemplateCard, VisionCard
from swiftlike.model_registry.chatml import CHATML_TIGHT
from swiftlike.model_registry.llama import LLAMA3
from swiftlike.model_registry.llava import LLAVA1_5, LLAVA_LORA
from swiftlike.model_registry.qwen2 import QWEN

# The system block stands before [INST], as in the checkpoint's own template; v2 never fills its own in.
LLAVA_MISTRAL = TemplateCard(
    name="llava-mistral",
    aliases=("llava1_6_mistral_hf",),
    user="[INST] {query} [/INST]",
    system="<<SYS>>\n{system}\n<</SYS>>\n\n",
    answer=" {answer}",
    stop="</s>",
    between=" ",
    bos=True,
)
# No default system message, as in the checkpoints' own template; v2 has Vicuna's sentence ("A chat between a curious
# human and an artificial intelligence assistant. ..."), which LLaVA's code used too: give it with --system.
LLAVA_VICUNA = dc.replace(LLAVA1_5, name="llava-vicuna", aliases=("llava1_6_vicuna_hf",))
LLAVA_YI = dc.replace(CHATML_TIGHT, name="llava-yi", aliases=("llava1_6_yi_hf",))
LLAVA_LLAMA3 = dc.replace(
    LLAMA3,
    name="llama3-llava-next-hf",
    aliases=("llama3_llava_next_hf", "llama-llava-next-hf", "llava-next-llama3", "llava_llama3_1_hf"),
)
LLAVA_QWEN = dc.replace(QWEN, name="llama-qwen-hf", aliases=("llava-qwen-hf", "llava_next_qwen_hf"), tool="")


def _template_of(config: Mapping[str, Any]) -> str:
    """By the language model and the size of its vocabulary."""
    text = config.get("text_config") or {}
    size = text.get("vocab_size", 32000)
    if text.get("model_type") == "qwen2":
        return "llama-qwen-hf" if size >= 151_000 else ""
    if text.get("model_type") == "mistral":
        return "llava-mistral" if size in (32_000, 32_064) else ""
    if size >= 128_256:
        return "llama3-llava-next-hf"
    return {32_000: "llava-vicuna", 32_064: "llava-vicuna", 64_000: "llava-yi", 64_064: "llava-yi"}.get(size, "")


def _hf(id: str, template: str, ms: str = "swift") -> Checkpoint:  # noqa: A002
    return Checkpoint(hf=f"llava-hf/{id}", ms=f"{ms}/{id}", template=template)


LLAVA_NEXT = ModelCard(
    name="llava_next",
    aliases=(
        "llava1_6_mistral_hf",
        "llava1_6_vicuna_hf",
        "llava1_6_yi_hf",
        "llama3_llava_next_hf",
        "llava_next_qwen_hf",
        "llava_llama3_1_hf",
    ),
    alias_templates={
        "llava1_6_mistral_hf": "llava-mistral",
        "llava1_6_vicuna_hf": "llava-vicuna",
        "llava1_6_yi_hf": "llava-yi",
        "llama3_llava_next_hf": "llama3-llava-next-hf",
        "llava_llama3_1_hf": "llama3-llava-next-hf",
        "llava_next_qwen_hf": "llama-qwen-hf",
    },
    hf_types=("llava_next",),
    architectures=("LlavaNextForConditionalGeneration",),
    template_of=_template_of,
    lora=dc.replace(LLAVA_LORA, aligner=("model.multi_modal_projector", "model.image_newline")),
    vision=VisionCard(
        adapter="swiftlike.data.vision:LlavaNext",
        placeholder="<image>",
        image_text="<image>",
        after="\n",
        max_tokens="576 for the whole and up to 2352 for the tiles; 2340 at 640x480",
        options={"MAX_PIXELS": "max_pixels"},
    ),
    checkpoints={
        "llava1_6-mistral-7b-instruct": _hf("llava-v1.6-mistral-7b-hf", "llava-mistral"),
        "llava1_6-vicuna-7b-instruct": _hf("llava-v1.6-vicuna-7b-hf", "llava-vicuna"),
        "llava1_6-vicuna-13b-instruct": _hf("llava-v1.6-vicuna-13b-hf", "llava-vicuna"),
        "llava1_6-yi-34b-instruct": _hf("llava-v1.6-34b-hf", "llava-yi"),
        "llava1_6-llama3_1-8b-instruct": Checkpoint(
            hf="", ms="swift/llava-llama3.1-8b", template="llama3-llava-next-hf"
        ),
        "llama3-llava-next-8b-hf": _hf("llama3-llava-next-8b-hf", "llama3-llava-next-hf"),
        "llava-next-72b-hf": _hf("llava-next-72b-hf", "llama-qwen-hf", ms="AI-ModelScope"),
        "llava-next-110b-hf": _hf("llava-next-110b-hf", "llama-qwen-hf", ms="AI-ModelScope"),
    },
)
