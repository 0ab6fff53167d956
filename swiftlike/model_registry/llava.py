"""LLaVA 1.5: one square crop of every picture."""

import dataclasses as dc
from collections.abc import Mapping
from typing import Any

from swiftlike.model_registry.card import Checkpoint, LoraTargets, ModelCard, TemplateCard, VisionCard
from swiftlike.model_registry.llama import LLAMA3

# ms-swift breaks the line before ASSISTANT; the checkpoints' own template has a space there, as LLaVA's code has.
# That template forgets the end token after an answer, which LLaVA was trained with and we keep.
LLAVA1_5 = TemplateCard(
    name="llava1_5",
    aliases=("llava1_5_hf",),
    user="USER: {query} ASSISTANT:",
    system="{system} ",
    answer=" {answer}",
    stop="</s>",
    bos=True,
)
LLAVA_LLAMA3 = dc.replace(LLAMA3, name="llava-llama-instruct", aliases=("llava_llama3_hf",))

# Names in memory since transformers 5 start with `model.`, those of older adapters do not.
LLAVA_LORA = LoraTargets(
    attention=r"(model\.)?language_model\..*\.self_attn\.(q_proj|k_proj|v_proj)",
    linear=r"(model\.)?language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
    language=("model.language_model", "lm_head"),
    aligner=("model.multi_modal_projector",),
    tower=("model.vision_tower",),
)


def _template_of(config: Mapping[str, Any]) -> str:
    """By the language model: Vicuna's vocabulary padded to 32064, or Llama 3's."""
    text = config.get("text_config") or {}
    if text.get("model_type", "llama") != "llama":
        return ""
    size = text.get("vocab_size", 32000)
    return {32000: "llava1_5", 32064: "llava1_5"}.get(size, "llava-llama-instruct" if size >= 128256 else "")


LLAVA = ModelCard(
    name="llava",
    aliases=("llava1_5_hf", "llava_llama3_hf", "llava_hf"),
    alias_templates={"llava1_5_hf": "llava1_5", "llava_llama3_hf": "llava-llama-instruct"},
    hf_types=("llava",),
    architectures=("LlavaForConditionalGeneration",),
    template_of=_template_of,
    lora=LLAVA_LORA,
    vision=VisionCard(
        adapter="swiftlike.data.vision:Llava",
        placeholder="<image>",
        image_text="<image>",
        after="\n",
        max_tokens="576",
        options={"MAX_PIXELS": "max_pixels"},
    ),
    checkpoints={
        **{
            f"llava1_5-{size}-instruct": Checkpoint(
                hf=f"llava-hf/llava-1.5-{size}-hf", ms=f"swift/llava-1.5-{size}-hf", template="llava1_5"
            )
            for size in ("7b", "13b")
        },
        "llava-llama3-8b-v1_1": Checkpoint(
            hf="xtuner/llava-llama-3-8b-v1_1-transformers",
            ms="AI-ModelScope/llava-llama-3-8b-v1_1-transformers",
            template="llava-llama-instruct",
        ),
    },
)
