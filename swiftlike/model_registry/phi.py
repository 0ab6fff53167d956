"""Phi 2."""

from swiftlike.model_registry.card import Checkpoint, LoraTargets, ModelCard

PHI = ModelCard(
    name="phi",
    aliases=("phi2",),
    hf_types=("phi",),
    architectures=("PhiForCausalLM",),
    template="default-generation",
    lora=LoraTargets(linear=r".*\.(q_proj|k_proj|v_proj|dense|fc1|fc2)"),
    checkpoints={
        "phi2-3b": Checkpoint(hf="microsoft/phi-2", ms="AI-ModelScope/phi-2", template="default-generation"),
    },
)
