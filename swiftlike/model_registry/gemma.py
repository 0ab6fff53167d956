"""Gemma 1, and the chat format that the first three generations share."""

from swiftlike.model_registry.card import Checkpoint, ModelCard, TemplateCard

# No generation was trained with a system turn (v2 writes one). The templates of Gemma 1 and 2 refuse a system message,
# that of Gemma 3 puts it before the first question: so do we, for all three.
GEMMA_TEMPLATE = TemplateCard(
    name="gemma",
    aliases=("gemma3_text",),
    user="<start_of_turn>user\n{query}<end_of_turn>\n<start_of_turn>model\n",
    system_in_user="<start_of_turn>user\n{system}\n\n{query}<end_of_turn>\n<start_of_turn>model\n",
    stop="<end_of_turn>",
    between="\n",
    bos=True,
    strip=("user", "assistant"),
)

GEMMA = ModelCard(
    name="gemma",
    hf_types=("gemma",),
    architectures=("GemmaForCausalLM",),
    checkpoints={
        f"gemma-{size}{name}": Checkpoint(
            hf=f"google/gemma-{size}{end}", ms=f"AI-ModelScope/gemma-{size}{end}", template=template
        )
        for size in ("2b", "7b")
        for name, end, template in (("", "", "default-generation"), ("-instruct", "-it", "gemma"))
    },
)
