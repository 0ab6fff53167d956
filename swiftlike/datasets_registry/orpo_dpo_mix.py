"""orpo-dpo-mix-40k: a mix of public preference sets."""

from typing import Any

from swiftlike.datasets_registry.card import DatasetCard
from swiftlike.datasets_registry.kinds import FROM_PAIRS, differing
from swiftlike.datasets_registry.row import Row
from swiftlike.datasets_registry.shapes import to_row


def _row(record: dict[str, Any]) -> Row | None:
    """The conversations are whole in `chosen` and `rejected`; `prompt` and `question` repeat parts of them."""
    return differing(to_row({key: record.get(key) for key in ("chosen", "rejected")}, "pair")[0])


ORPO_DPO_MIX = DatasetCard(
    name="orpo-dpo-mix-40k",
    hf="mlabonne/orpo-dpo-mix-40k",
    ms="AI-ModelScope/orpo-dpo-mix-40k",
    kinds=FROM_PAIRS,
    to_row=_row,
    licence="Apache-2.0",
    help="chosen and rejected as message lists that hold the prompt",
)
