"""Anthropic's helpful and harmless dialogues (Bai et al. 2022), and a Chinese translation."""

import dataclasses as dc
from typing import Any

from swiftlike.datasets_registry.card import DatasetCard
from swiftlike.datasets_registry.kinds import FROM_PAIRS, differing
from swiftlike.datasets_registry.row import Row
from swiftlike.datasets_registry.shapes import to_row


def _row(record: dict[str, Any]) -> Row | None:
    """Two transcripts, split where they part or at the last turn; the same or empty answers are left out."""
    return differing(to_row({key: record.get(key) for key in ("chosen", "rejected")}, "pair")[0])


HH_RLHF = DatasetCard(
    name="hh-rlhf",
    aliases=("hh_rlhf",),
    hf="Anthropic/hh-rlhf",
    ms="AI-ModelScope/hh-rlhf",
    subsets=("helpful-base", "helpful-online", "helpful-rejection-sampled"),
    known_subsets=("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled"),
    subset_folders=True,
    kinds=FROM_PAIRS,
    to_row=_row,
    licence="MIT",
    help="chosen and rejected as Human:/Assistant: transcripts",
)
HH_RLHF_TEST = dc.replace(
    HH_RLHF, name="hh-rlhf-test", aliases=("hh_rlhf_test",), split="test", help="its held-out dialogues"
)
HH_RLHF_CN = DatasetCard(
    name="hh-rlhf-cn",
    aliases=("hh_rlhf_cn",),
    ms="AI-ModelScope/hh_rlhf_cn",
    subsets=("hh_rlhf", "harmless_base_cn", "harmless_base_en", "helpful_base_cn", "helpful_base_en"),
    known_subsets=("hh_rlhf", "harmless_base_cn", "harmless_base_en", "helpful_base_cn", "helpful_base_en"),
    kinds=FROM_PAIRS,
    to_row=lambda record: differing(to_row(record, "pair")[0]),
    help="context, chosen and rejected as {role, text}",
)
