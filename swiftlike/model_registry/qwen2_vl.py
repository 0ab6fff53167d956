"""Qwen2-VL: pictures of any size, positions in three directions."""

import dataclasses as dc

from swiftlike.model_registry.card import Checkpoint, LoraTargets, ModelCard, Quant, VisionCard
from swiftlike.model_registry.qwen2 import QWEN

QWEN2_VL_TEMPLATE = dc.replace(QWEN, name="qwen2-vl", aliases=("qwen2_vl",))

QWEN_VL_LORA = LoraTargets(
    attention=r"(model\.)?language_model\..*\.self_attn\.(q_proj|k_proj|v_proj)",
    linear=r"(model\.)?language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
    language=("model.language_model", "lm_head"),
    aligner=("model.visual.merger",),
    tower=("model.visual.patch_embed", "model.visual.blocks"),
)
QWEN_VISION = VisionCard(
    adapter="swiftlike.data.vision:QwenVL",
    placeholder="<|image_pad|>",
    image_text="<|vision_start|><|image_pad|><|vision_end|>",
    mrope=True,
    max_tokens="one for each 28x28 pixels, 4 to 16384",
    options={"MAX_PIXELS": "max_pixels", "MIN_PIXELS": "min_pixels"},
)


def _qwen(id: str, template: str, quant: Quant = "") -> Checkpoint:  # noqa: A002
    return Checkpoint.same(f"Qwen/{id}", template=template, quant=quant)


QWEN2_VL = ModelCard(
    name="qwen2_vl",
    hf_types=("qwen2_vl",),
    architectures=("Qwen2VLForConditionalGeneration",),
    template="qwen2-vl",
    lora=QWEN_VL_LORA,
    vision=QWEN_VISION,
    checkpoints={
        **{f"qwen2-vl-{size}": _qwen(f"Qwen2-VL-{size.upper()}", "default-generation") for size in ("2b", "7b", "72b")},
        **{
            f"qwen2-vl-{size}-instruct{name}": _qwen(f"Qwen2-VL-{size.upper()}-Instruct{ending}", "qwen2-vl", quant)
            for size in ("2b", "7b", "72b")
            for name, ending, quant in (
                ("", "", ""),
                ("-awq", "-AWQ", "awq"),
                ("-gptq-int4", "-GPTQ-Int4", "gptq"),
                ("-gptq-int8", "-GPTQ-Int8", "gptq"),
            )
        },
    },
)
