"""Any causal language model folder that transformers can load, by its own chat template."""

from swiftlike.model_registry.card import LoraTargets, ModelCard

# One of these is how a family writes q, k and v: apart, or fused.
_ATTENTION = "q_proj|k_proj|v_proj|qkv_proj|c_attn|query_key_value|Wqkv|wqkv|W_pack|query|key|value"

GENERIC = ModelCard(
    name="generic",
    lora=LoraTargets(attention=rf".*\.({_ATTENTION})", linear="", language=("",)),
)
