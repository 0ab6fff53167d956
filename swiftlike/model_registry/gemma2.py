"""Gemma 2. Its attention scores are capped, which only eager attention does: others drop the cap silently."""

from swiftlike.model_registry.card import Checkpoint, ModelCard

GEMMA2 = ModelCard(
    name="gemma2",
    hf_types=("gemma2",),
    architectures=("Gemma2ForCausalLM",),
    attention=("eager",),
    checkpoints={
        f"gemma2-{size}{name}": Checkpoint(
            hf=f"google/gemma-2-{size}{end}", ms=f"LLM-Research/gemma-2-{size}{end}", template=template
        )
        for size in ("2b", "9b", "27b")
        for name, end, template in (("", "", "default-generation"), ("-instruct", "-it", "gemma"))
    },
)
