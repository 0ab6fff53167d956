"""Qwen2.5-VL: as Qwen2-VL, with windows in the vision tower."""

import dataclasses as dc

from swiftlike.model_registry.card import Checkpoint, ModelCard
from swiftlike.model_registry.qwen2_vl import QWEN2_VL_TEMPLATE, QWEN_VISION, QWEN_VL_LORA

QWEN2_5_VL_TEMPLATE = dc.replace(QWEN2_VL_TEMPLATE, name="qwen2_5-vl", aliases=("qwen2_5_vl",))

QWEN2_5_VL = ModelCard(
    name="qwen2_5_vl",
    hf_types=("qwen2_5_vl",),
    architectures=("Qwen2_5_VLForConditionalGeneration",),
    template="qwen2_5-vl",
    lora=QWEN_VL_LORA,
    vision=QWEN_VISION,
    checkpoints={
        f"qwen2_5-vl-{size}-instruct{name}": Checkpoint.same(
            f"Qwen/Qwen2.5-VL-{size.upper()}-Instruct{ending}", template="qwen2_5-vl", quant=quant
        )
        for size in ("3b", "7b", "32b", "72b")
        for name, ending, quant in (("", "", ""), ("-awq", "-AWQ", "awq"))
    },
)
