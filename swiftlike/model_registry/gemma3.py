"""Gemma 3, the checkpoints without pictures."""

from swiftlike.model_registry.card import Checkpoint, ModelCard

GEMMA3 = ModelCard(
    name="gemma3_text",
    aliases=("gemma3",),
    hf_types=("gemma3_text",),
    architectures=("Gemma3ForCausalLM",),
    checkpoints={
        "gemma3-1b": Checkpoint(
            hf="google/gemma-3-1b-pt", ms="LLM-Research/gemma-3-1b-pt", template="default-generation"
        ),
        "gemma3-1b-instruct": Checkpoint(hf="google/gemma-3-1b-it", ms="LLM-Research/gemma-3-1b-it", template="gemma"),
        "gemma3-270m": Checkpoint.same("google/gemma-3-270m", template="default-generation"),
        "gemma3-270m-instruct": Checkpoint.same("google/gemma-3-270m-it", template="gemma"),
    },
)
