"""Preference pairs to training rows: the first turn as text, then what is too long, then what holds links."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterable, Mapping
from typing import Any

from swiftlike.datasets_registry.card import BadRow
from swiftlike.stages.conversation import Count, Template, first_turn

COPIES = ("train_dataset", "train_dataset_remove_trunc", "train_dataset_filter_urls")  # before, and after each filter
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

    @property
    def max_response_length(self) -> int:
        """Tokens that an answer may have."""
        return max_response_length(self.max_length, self.max_prompt_length)

    def why(self, step: str) -> str:
        """The reason for which a step leaves a pair out."""
        if step == COPIES[1]:
            return f"a prompt of more than {self.max_prompt_length} tokens or an answer of more than " + str(
                self.max_response_length
            )
        return f"a link in the chosen answer{'' if self.ignore_rejected else ' or the rejected one'}"


def filter_pairs(
    rows: Iterable[Mapping[str, str]], filters: PairFilters, count: Count
) -> dict[str, list[Mapping[str, str]]]:
    """What is left after each step, under the name of the copy that is kept of it; the last one is for training."""
    before, short, plain = COPIES
    steps = {before: list(rows)}
    limits = {name: getattr(filters, name) for name in ("max_prompt_length", "max_response_length")}
    steps[short] = [row for row in steps[before] if fits(row, count, **limits)]
    if filters.filter_urls:
        steps[plain] = [row for row in steps[short] if has_no_url(row, ignore_rejected=filters.ignore_rejected)]
    return steps
