"""Orca pairs: GPT-4 answers against Llama 2 answers."""

from swiftlike.datasets_registry.card import DatasetCard
from swiftlike.datasets_registry.kinds import FROM_PAIRS

ORCA_DPO_PAIRS = DatasetCard(
    name="orca_dpo_pairs",
    aliases=("orca-dpo-pairs",),
    hf="Intel/orca_dpo_pairs",
    ms="swift/orca_dpo_pairs",
    kinds=FROM_PAIRS,
    columns={"question": "query"},
    licence="Apache-2.0",
    help="system, question, chosen, rejected",
)
