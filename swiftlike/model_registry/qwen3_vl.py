"""Qwen3-VL: larger patches, and picture features that enter several layers of the language model."""

import dataclasses as dc

from swiftlike.model_registry.card import Checkpoint, ModelCard
from swiftlike.model_registry.qwen2_vl import QWEN_VISION, QWEN_VL_LORA
from swiftlike.model_registry.qwen3 import QWEN3_INSTRUCT

QWEN3_VL_TEMPLATE = dc.replace(QWEN3_INSTRUCT, name="qwen3-vl", aliases=("qwen3_vl",))

QWEN3_VL = ModelCard(
    name="qwen3_vl",
    hf_types=("qwen3_vl",),
    architectures=("Qwen3VLForConditionalGeneration",),
    lora=dc.replace(
        QWEN_VL_LORA,
        aligner=("model.visual.merger", "model.visual.deepstack_merger_list"),
        tower=("model.visual.patch_embed", "model.visual.pos_embed", "model.visual.blocks"),
    ),
    vision=dc.replace(
        QWEN_VISION,
        max_tokens="one for each 32x32 pixels",
        options={**QWEN_VISION.options, "IMAGE_MAX_TOKEN_NUM": "max_image_tokens"},
    ),
    checkpoints={
        f"qwen3-vl-{size}-{kind.lower()}{name}": Checkpoint.same(
            f"Qwen/Qwen3-VL-{size.upper()}-{kind}{ending}", template=template, quant=quant
        )
        for size in ("2b", "4b", "8b", "32b")
        # the thinking ones open <think> in the prompt, as their own template does
        for kind, template in (("Instruct", "qwen3-vl"), ("Thinking", "chat_template"))
        for name, ending, quant in (("", "", ""), ("-fp8", "-FP8", "fp8"))
    },
)
