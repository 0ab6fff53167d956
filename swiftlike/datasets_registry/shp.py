"""Stanford Human Preferences: 385 000 pairs of Reddit answers, preferred by votes (Ethayarajh et al. 2022)."""

from typing import Any

from swiftlike.datasets_registry.card import BadRow, DatasetCard
from swiftlike.datasets_registry.kinds import FROM_PAIRS, differing
from swiftlike.datasets_registry.row import Row
from swiftlike.datasets_registry.shapes import to_row


def _row(record: dict[str, Any]) -> Row | None:
    """`labels` is 1 where answer A has more votes, 0 where B has."""
    if record.get("labels") not in (0, 1):
        raise BadRow("unknown verdict", f"labels is {record.get('labels')!r}, not 0 or 1")
    first, second = record.get("human_ref_A"), record.get("human_ref_B")
    chosen, rejected = (first, second) if record["labels"] == 1 else (second, first)
    pair = {"query": record.get("history"), "response": chosen, "rejected_response": rejected}
    return differing(to_row(pair, "pair")[0])


SHP = DatasetCard(
    name="shp",
    hf="stanfordnlp/SHP",
    ms="AI-ModelScope/SHP",
    known_subsets=(
        *("askacademia", "askanthropology", "askbaking", "askcarguys", "askculinary", "askdocs", "askengineers"),
        *("askhistorians", "askhr", "askphilosophy", "askphysics", "askscience", "asksciencefiction"),
        *("asksocialscience", "askvet", "changemyview", "explainlikeimfive", "legaladvice"),
    ),
    subset_folders=True,
    kinds=FROM_PAIRS,
    to_row=_row,
    help="history, human_ref_A, human_ref_B, labels",
)
