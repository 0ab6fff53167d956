"""The sets that TRL's examples use, in its own formats."""

from swiftlike.datasets_registry.card import DatasetCard
from swiftlike.datasets_registry.kinds import FROM_LABELLED, FROM_PAIRS, differing
from swiftlike.datasets_registry.shapes import to_row

TRL_ULTRAFEEDBACK = DatasetCard(
    name="trl-ultrafeedback",
    hf="trl-lib/ultrafeedback_binarized",
    kinds=FROM_PAIRS,
    to_row=lambda record: differing(to_row(record, "pair")[0]),
    licence="MIT",
    help="chosen and rejected as message lists that hold the prompt, score_chosen, score_rejected",
)
KTO_MIX = DatasetCard(
    name="kto-mix-14k",
    hf="trl-lib/kto-mix-14k",
    kinds=FROM_LABELLED,
    help="prompt and completion as message lists, label",
)
TRL_RLAIF_V = DatasetCard(
    name="trl-rlaif-v",
    hf="trl-lib/rlaif-v",
    kinds=FROM_PAIRS,
    vision=True,
    licence="CC-BY-NC-4.0",
    help="images; prompt, chosen and rejected as message lists with content parts",
)
