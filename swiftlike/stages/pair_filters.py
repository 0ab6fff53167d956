"""Preference pairs to training rows: the first turn as text, then what is too long, then what holds links."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterable, Mapping
from typing import Any

from swiftlike.datasets_registry.card import BadRow
from swiftlike.stages.conversation import Count, Template, first_turn

_RESERVE = 32  # tokens kept free in a row beside the prompt and the answer


def dpo_row(example: Mapping[str, Any], template: Template) -> dict[str, str]:
    """Templated `prompt`, and the first answers `chosen` and `rejected` as plain text.

    BadRow when the two do not begin alike, or one of them has no answer.
    """
    chosen, rejected = first_turn(example["chosen"]), first_turn(example["rejected"])
    if chosen.prompt != rejected.prompt:
        raise BadRow("prompt", "chosen and rejected answer different prompts")
    if chosen.answer is None or rejected.answer is None:
        raise BadRow("conversation", "there is no answer")
    return {"prompt": template(chosen.prompt), "chosen": chosen.answer, "rejected": rejected.answer}


def max_response_length(max_length: int, max_prompt_length: int) -> int:
    """Tokens that an answer may have."""
    return max_length - max_prompt_length - _RESERVE


def fits(row: Mapping[str, str], count: Count, *, max_prompt_length: int, max_response_length: int) -> bool:
    """Whether nothing of the row would be truncated; both limits are included."""
    if count(row["prompt"]) > max_prompt_length:
        return False
    return all(count(row[name]) <= max_response_length for name in ("chosen", "rejected"))


def has_no_url(row: Mapping[str, str], *, ignore_rejected: bool = True) -> bool:
    """Whether `http://` and `https://` do not occur in the chosen answer, nor in the rejected one unless ignored."""
    texts = [row["chosen"], *([] if ignore_rejected else [row["rejected"]])]
    return not any(scheme in text for text in texts for scheme in ("http://", "https://"))


@dc.dataclass(frozen=True, kw_only=True)
class PairFilters:
    """Limits in tokens, and whether answers with links are left out."""

    max_length: int = 2560
    max_prompt_length: int = 512
    filter_urls: bool = True
    ignore_rejected: bool = True


def filter_pairs(
    rows: Iterable[Mapping[str, str]], filters: PairFilters, count: Count
) -> dict[str, list[Mapping[str, str]]]:
    """What is left after each step, under the name of the copy that is kept of it; the last one is for training."""
    steps = {"train_dataset": list(rows)}
    limit = max_response_length(filters.max_length, filters.max_prompt_length)
    steps["train_dataset_remove_trunc"] = kept = [
        row
        for row in steps["train_dataset"]
        if fits(row, count, max_prompt_length=filters.max_prompt_length, max_response_length=limit)
    ]
    if filters.filter_urls:
        steps["train_dataset_filter_urls"] = [
            row for row in kept if has_no_url(row, ignore_rejected=filters.ignore_rejected)
        ]
    return steps
