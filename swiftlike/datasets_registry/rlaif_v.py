"""RLAIF-V: 83 000 pairs of answers about photographs, judged sentence by sentence by open models."""

from swiftlike.datasets_registry.card import DatasetCard
from swiftlike.datasets_registry.kinds import FROM_PAIRS

RLAIF_V = DatasetCard(
    name="rlaif-v",
    aliases=("rlaif_v",),
    hf="openbmb/RLAIF-V-Dataset",
    ms="swift/RLAIF-V-Dataset",
    kinds=FROM_PAIRS,
    vision=True,
    columns={"image": "images", "question": "query"},
    licence="CC-BY-NC-4.0",
    help="image, question, chosen, rejected",
)
