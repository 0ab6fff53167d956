"""Phi 3, 3.5 and 4, text. Attention and the gated layers are fused."""

from swiftlike.model_registry.card import Checkpoint, LoraTargets, ModelCard, TemplateCard

PHI3_TEMPLATE = TemplateCard(
    name="phi3",
    user="<|user|>\n{query}<|end|>\n<|assistant|>\n",
    system="<|system|>\n{system}<|end|>\n",
    stop="<|end|>",
    between="\n",
)
PHI4_TEMPLATE = TemplateCard(
    name="phi4",
    user="<|im_start|>user<|im_sep|>{query}<|im_end|><|im_start|>assistant<|im_sep|>",
    system="<|im_start|>system<|im_sep|>{system}<|im_end|>",
    stop="<|im_end|>",
)
# ms-swift gives Phi 4 mini the format of Phi 3; its own template has no line ends.
PHI4_MINI = TemplateCard(
    name="phi4-mini",
    user="<|user|>{query}<|end|><|assistant|>",
    system="<|system|>{system}<|end|>",
    stop="<|end|>",
)


def _phi(id: str, template: str = "phi3") -> Checkpoint:  # noqa: A002
    return Checkpoint(hf=f"microsoft/{id}", ms=f"LLM-Research/{id}", template=template)


PHI3 = ModelCard(
    name="phi3",
    aliases=("phi4",),
    alias_templates={"phi4": "phi4"},
    hf_types=("phi3",),
    architectures=("Phi3ForCausalLM",),
    lora=LoraTargets(attention=r".*\.self_attn\.qkv_proj", linear=r".*\.(qkv_proj|o_proj|gate_up_proj|down_proj)"),
    checkpoints={
        "phi3-4b-4k-instruct": _phi("Phi-3-mini-4k-instruct"),
        "phi3-4b-128k-instruct": _phi("Phi-3-mini-128k-instruct"),
        "phi3-medium-4k-instruct": _phi("Phi-3-medium-4k-instruct"),
        "phi3-medium-128k-instruct": _phi("Phi-3-medium-128k-instruct"),
        "phi3_5-mini-instruct": _phi("Phi-3.5-mini-instruct"),
        "phi4-14b": _phi("phi-4", "phi4"),
        "phi4-mini-instruct": _phi("Phi-4-mini-instruct", "phi4-mini"),
    },
)

# Experts are stacked tensors, not linear layers, in transformers 5: LoRA reaches the attention only.
PHIMOE = ModelCard(
    name="phimoe",
    aliases=("phi3_moe",),
    hf_types=("phimoe",),
    architectures=("PhimoeForCausalLM", "PhiMoEForCausalLM"),
    checkpoints={"phi3_5-moe-instruct": _phi("Phi-3.5-MoE-instruct")},
)
