"""Mistral 7B, Nemo, Small, Large; Mixtral; Zephyr. Text."""

import dataclasses as dc

from swiftlike.model_registry.card import Checkpoint, ModelCard, TemplateCard

# The checkpoints write [INST] in three ways. v2 gives the first two Llama 2's format with its default system message,
# and Small and Large the one of Nemo; each checkpoint's own template is what stands here.
MISTRAL = TemplateCard(
    name="mistral",  # 7B v0.1 and v0.2
    user=" [INST] {query} [/INST]",
    system_in_user=" [INST] {system}\n\n{query} [/INST]",
    answer=" {answer}",
    stop="</s>",
    bos=True,
)
MISTRAL_V3 = TemplateCard(
    name="mistral-v3",  # 7B v0.3, Small 2409, Large 2407: [INST] is a token
    user="[INST] {query}[/INST]",
    system_in_user="[INST] {system}\n\n{query}[/INST]",
    system_in_last=True,
    answer=" {answer}",
    stop="</s>",
    bos=True,
    strip=("assistant",),
)
MISTRAL_NEMO = TemplateCard(
    name="mistral-nemo",
    aliases=("mistral_nemo",),
    user="[INST]{query}[/INST]",
    system_in_user="[INST]{system}\n\n{query}[/INST]",
    system_in_last=True,
    stop="</s>",
    bos=True,
)
# The format of preference-tuning recipes for Mistral 7B (AIPO among them): no spaces outside the brackets.
MISTRAL_INSTRUCT = dc.replace(
    MISTRAL,
    name="mistral-instruct",
    user="[INST] {query} [/INST]",
    system_in_user="[INST] {system}\n\n{query} [/INST]",
    answer="{answer}",
    strip=("system", "user", "assistant"),
)
ZEPHYR = TemplateCard(
    name="zephyr",
    user="<|user|>\n{query}</s>\n<|assistant|>\n",
    system="<|system|>\n{system}</s>\n",
    stop="</s>",
    between="\n",
)
# The plain form of Vicuna's format in the same recipes. LLaVA's are in llava.py and llava_next.py.
VICUNA = TemplateCard(
    name="vicuna",
    user="USER: {query}\nASSISTANT:",
    system="{system}\n\n",
    answer=" {answer}",
    stop="</s>",
    between="\n",
    bos=True,
    strip=("system", "user", "assistant"),
)


def _ai(id: str, template: str, ms: str = "AI-ModelScope") -> Checkpoint:  # noqa: A002
    return Checkpoint(hf=f"mistralai/{id}", ms=f"{ms}/{id}", template=template)


_BASE = "default-generation"

FAMILY = ModelCard(
    name="mistral",
    aliases=("mistral_nemo", "zephyr"),
    alias_templates={"mistral_nemo": "mistral-nemo", "zephyr": "zephyr"},
    hf_types=("mistral",),
    architectures=("MistralForCausalLM",),
    checkpoints={
        "mistral-7b": _ai("Mistral-7B-v0.1", _BASE),
        "mistral-7b-v2": Checkpoint(
            hf="alpindale/Mistral-7B-v0.2-hf", ms="AI-ModelScope/Mistral-7B-v0.2-hf", template=_BASE
        ),
        "mistral-7b-instruct": _ai("Mistral-7B-Instruct-v0.1", "mistral"),
        "mistral-7b-instruct-v2": _ai("Mistral-7B-Instruct-v0.2", "mistral"),
        "mistral-7b-instruct-v3": _ai("Mistral-7B-Instruct-v0.3", "mistral-v3", ms="LLM-Research"),
        "mistral-nemo-base-2407": _ai("Mistral-Nemo-Base-2407", _BASE),
        "mistral-nemo-instruct-2407": _ai("Mistral-Nemo-Instruct-2407", "mistral-nemo"),
        "mistral-small-instruct-2409": _ai("Mistral-Small-Instruct-2409", "mistral-v3"),
        "mistral-large-instruct-2407": _ai("Mistral-Large-Instruct-2407", "mistral-v3", ms="LLM-Research"),
        "zephyr-7b-beta-chat": Checkpoint(
            hf="HuggingFaceH4/zephyr-7b-beta", ms="modelscope/zephyr-7b-beta", template="zephyr"
        ),
    },
)

# Experts are stacked tensors, not linear layers, in transformers 5: LoRA reaches the attention only.
MIXTRAL = ModelCard(
    name="mixtral",
    hf_types=("mixtral",),
    architectures=("MixtralForCausalLM",),
    checkpoints={
        "mixtral-moe-7b": _ai("Mixtral-8x7B-v0.1", _BASE),
        "mixtral-moe-7b-instruct": _ai("Mixtral-8x7B-Instruct-v0.1", "mistral"),
        "mixtral-moe-8x22b-v1": Checkpoint(
            hf="mistral-community/Mixtral-8x22B-v0.1", ms="AI-ModelScope/Mixtral-8x22B-v0.1", template=_BASE
        ),
        "mixtral-moe-7b-aqlm-2bit-1x16": Checkpoint(
            hf="ISTA-DASLab/Mixtral-8x7b-AQLM-2Bit-1x16-hf",
            ms="AI-ModelScope/Mixtral-8x7b-AQLM-2Bit-1x16-hf",
            template=_BASE,
            quant="aqlm",
        ),
    },
)
