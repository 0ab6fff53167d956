"""UltraFeedback: 60 000 instructions with answers scored by GPT-4, as pairs and as single verdicts."""

from typing import Any

from swiftlike.datasets_registry.card import DatasetCard
from swiftlike.datasets_registry.kinds import FROM_LABELLED, FROM_PAIRS, differing
from swiftlike.datasets_registry.row import Row
from swiftlike.datasets_registry.shapes import to_row


def _row(record: dict[str, Any]) -> Row | None:
    """Best answer against one of the others; a few rows hold equal or empty answers and are left out."""
    columns = {key: record.get(key) for key in ("chosen", "rejected")}
    return differing(to_row(columns, "pair")[0])


ULTRAFEEDBACK = DatasetCard(
    name="ultrafeedback",
    aliases=("ultrafeedback-binarized", "ultrafeedback_binarized"),
    hf="HuggingFaceH4/ultrafeedback_binarized",
    ms="AI-ModelScope/ultrafeedback_binarized",
    split="train_prefs",
    kinds=FROM_PAIRS,
    to_row=_row,
    licence="MIT",
    help="chosen and rejected as message lists that hold the prompt",
)
ULTRAFEEDBACK_KTO = DatasetCard(
    name="ultrafeedback-kto",
    hf="argilla/ultrafeedback-binarized-preferences-cleaned-kto",
    ms="AI-ModelScope/ultrafeedback-binarized-preferences-cleaned-kto",
    kinds=FROM_LABELLED,
    licence="MIT",
    help="prompt, completion, label",
)
