"""InternVL 1.5, 2, 2.5, 3 and 3.5: square tiles by aspect ratio. Files in OpenGVLab's own layout or transformers'."""

import dataclasses as dc
from collections.abc import Mapping
from typing import Any

from swiftlike.model_registry.card import Checkpoint, LoraTargets, ModelCard, Quant, VisionCard
from swiftlike.model_registry.chatml import CHATML, CHATML_TIGHT
from swiftlike.model_registry.phi3 import PHI4_MINI

# System messages as in OpenGVLab's conversation.py. Versions 1.5 to 2.5 encode the text with whatever first token the
# tokenizer adds: InternLM2 and Llama 3 have one, Qwen 2 and Yi have none.
_SYSTEM_2 = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"  # noqa: RUF001
)
_SYSTEM_2_5 = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"  # noqa: RUF001
)

INTERNVL1_5 = dc.replace(
    CHATML_TIGHT,
    name="internvl",
    bos="auto",
    default_system="You are an AI assistant whose name is InternLM (书生·浦语).",
)
INTERNVL2 = dc.replace(INTERNVL1_5, name="internvl2", default_system=_SYSTEM_2)
INTERNVL2_5 = dc.replace(CHATML, name="internvl2_5", aliases=(), bos="auto", default_system=_SYSTEM_2_5)
# Without a default system message: 3.5, and the checkpoints in transformers' layout.
INTERNVL_NATIVE = dc.replace(CHATML, name="internvl-hf", aliases=("internvl_hf", "internvl3_5"), bos="auto")
_PHI3 = dc.replace(
    PHI4_MINI,
    name="internvl-phi3",
    aliases=("internvl_phi3",),
    user="<|user|>\n{query}<|end|><|assistant|>\n",
    system="<|system|>\n{system}<|end|>",
    bos="auto",
)
INTERNVL1_5_PHI3 = dc.replace(_PHI3, default_system="You are an AI assistant whose name is Phi-3.")
INTERNVL2_PHI3 = dc.replace(_PHI3, name="internvl2-phi3", aliases=("internvl2_phi3",), default_system=_SYSTEM_2)
del _PHI3

# What the key `template` of a config.json in OpenGVLab's layout says.
_CONVERSATIONS = {
    "Hermes-2": "internvl2",
    "internlm2-chat": "internvl2",
    "phi3-chat": "internvl2-phi3",
    "internvl2_5": "internvl2_5",
}


def _template_of(config: Mapping[str, Any]) -> str:
    return _CONVERSATIONS.get(config.get("template", ""), "")


CHAT_LAYOUT = "swiftlike.models.internvl_chat:load"


def _chat(id: str, template: str, quant: Quant = "", ms: str = "") -> Checkpoint:  # noqa: A002
    """A checkpoint in OpenGVLab's layout."""
    return Checkpoint(
        hf=f"OpenGVLab/{id}", ms=ms or f"OpenGVLab/{id}", template=template, quant=quant, loader=CHAT_LAYOUT
    )


def _names(version: str, sizes: str, endings: tuple[str, ...], template: str) -> dict[str, Checkpoint]:
    """All combinations of size and ending of one version, in OpenGVLab's layout."""
    return {
        f"internvl{version}-{size}{ending}".lower(): _chat(
            f"InternVL{version}-{size}{ending}", template, quant="awq" if ending == "-AWQ" else ""
        )
        for size in sizes.split()
        for ending in endings
    }


def _native(version: str, sizes: str, ending: str) -> dict[str, Checkpoint]:
    return {
        f"internvl{version}-{size}-hf".lower(): Checkpoint.same(
            f"OpenGVLab/InternVL{version}-{size}-{ending}", template="internvl-hf"
        )
        for size in sizes.split()
    }


_V2, _V2_5 = "1B 2B 8B 26B 40B Llama3-76B", "1B 2B 4B 8B 26B 38B 78B"
_V3, _V3_5 = "1B 2B 8B 9B 14B 38B 78B", "1B 2B 4B 8B 14B 38B"

INTERNVL = ModelCard(
    name="internvl",
    aliases=("internvl_chat", "internvl_hf"),
    hf_types=("internvl", "internvl_chat"),
    architectures=("InternVLForConditionalGeneration", "InternVLChatModel"),
    template_of=_template_of,
    loaders={"InternVLChatModel": CHAT_LAYOUT},
    lora=LoraTargets(
        # qkv_proj and gate_up_proj: the two checkpoints over Phi 3
        attention=r"(model\.)?language_model\..*\.self_attn\.(q_proj|k_proj|v_proj|qkv_proj)",
        linear=r"(model\.)?language_model\..*\.(q_proj|k_proj|v_proj|qkv_proj|o_proj|gate_proj|up_proj|gate_up_proj"
        r"|down_proj)",
        language=("model.language_model", "lm_head"),
        aligner=("model.multi_modal_projector",),
        tower=("model.vision_tower",),
    ),
    vision=VisionCard(
        adapter="swiftlike.data.vision:InternVL",
        placeholder="<IMG_CONTEXT>",
        image_text="<img><IMG_CONTEXT></img>",
        after="\n",
        unexpanded="<IMG_CONTEXT>",
        max_tokens="256 for each tile: up to 12 tiles and the whole picture, 3328",
        options={"MAX_NUM": "max_tiles", "MAX_PIXELS": "max_pixels"},
    ),
    checkpoints={
        "internvl-chat-v1_5": _chat("InternVL-Chat-V1-5", "internvl", ms="AI-ModelScope/InternVL-Chat-V1-5"),
        "internvl-chat-v1_5-int8": _chat(
            "InternVL-Chat-V1-5-int8", "internvl", quant="bnb", ms="AI-ModelScope/InternVL-Chat-V1-5-int8"
        ),
        "mini-internvl-chat-2b-v1_5": _chat("Mini-InternVL-Chat-2B-V1-5", "internvl"),
        "mini-internvl-chat-4b-v1_5": _chat("Mini-InternVL-Chat-4B-V1-5", "internvl-phi3"),
        **_names("2", _V2, ("",), "internvl2"),
        "internvl2-4b": _chat("InternVL2-4B", "internvl2-phi3"),
        **_names("2", _V2.removeprefix("1B "), ("-AWQ",), "internvl2"),
        "internvl2-8b-mpo": _chat("InternVL2-8B-MPO", "internvl2"),
        **_names("2_5", _V2_5, ("", "-MPO"), "internvl2_5"),
        **_names("2_5", _V2_5.removeprefix("1B 2B "), ("-AWQ",), "internvl2_5"),
        **_names("3", _V3, ("", "-Instruct", "-Pretrained", "-AWQ"), "internvl2_5"),
        **_native("3", _V3, "hf"),
        **_names("3_5", _V3_5, ("", "-Instruct", "-MPO", "-Pretrained"), "internvl-hf"),
        **_native("3_5", _V3_5, "HF"),
    },
)
