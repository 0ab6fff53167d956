"""ChatML, the format that most families vary, and what needs no format at all."""

import dataclasses as dc

from swiftlike.model_registry.card import TemplateCard

# v2 adds the tokenizer's bos here; templates of checkpoints that use plain ChatML do not.
CHATML = TemplateCard(
    name="chatml",
    aliases=("yi", "yi1_5"),
    user="<|im_start|>user\n{query}<|im_end|>\n<|im_start|>assistant\n",
    stop="<|im_end|>",
    system="<|im_start|>system\n{system}<|im_end|>\n",
    between="\n",
)

# ChatML without line ends between the turns, as InternLM's and LLaVA's original code write it.
CHATML_TIGHT = dc.replace(
    CHATML,
    name="chatml-tight",
    aliases=(),
    user="<|im_start|>user\n{query}<|im_end|><|im_start|>assistant\n",
    system="<|im_start|>system\n{system}<|im_end|>",
    between="",
)

# Base models: the prompt as it is, the answer, the end.
GENERATION = TemplateCard(
    name="default-generation",
    aliases=("default", "dummy", "qwen2-vl-generation"),
    user="{query}",
    stop="{eos}",
    bos="auto",
    rounds=1,
)
GENERATION_BOS = dc.replace(GENERATION, name="default-generation-bos", aliases=(), bos=True)
