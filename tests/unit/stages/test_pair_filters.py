"""Pairs to training rows."""

from __future__ import annotations

import pytest

from swiftlike.datasets_registry.card import BadRow
from swiftlike.stages.pair_filters import PairFilters, dpo_row, filter_pairs, max_response_length

from .words import bot, roles, system, user, words


def row(prompt: int = 1, chosen: int = 1, rejected: int = 1, link: str = "") -> dict[str, str]:
    return {"prompt": "p " * prompt, "chosen": "c " * chosen, "rejected": "r " * rejected} | (
        {link: "see https://a.b"} if link else {}
    )


def test_later_turns_are_left_out() -> None:
    chosen = [system("s"), user("q"), bot("good"), user("and"), bot("more")]
    made = dpo_row({"chosen": chosen, "rejected": [system("s"), user("q"), bot("bad")]}, roles)
    assert made == {"prompt": "[system]s[user]q[assistant]", "chosen": "good", "rejected": "bad"}


@pytest.mark.parametrize(
    ("rejected", "why"),
    [
        ([user("z"), bot("b")], "different prompts"),
        ([system("s"), user("q"), bot("b")], "different prompts"),
        ([user("q")], "no answer"),
        ([bot("b")], "do not alternate"),
    ],
)
def test_broken_pairs_are_bad_rows(rejected: list, why: str) -> None:
    with pytest.raises(BadRow, match=why):
        dpo_row({"chosen": [user("q"), bot("a")], "rejected": rejected}, roles)


def test_length_of_an_answer_in_the_recipe() -> None:
    assert max_response_length(2560, 512) == 2016


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "kept"), [(8, 20, 20, 1), (9, 1, 1, 0), (1, 21, 1, 0), (1, 1, 21, 0)]
)
def test_rows_that_would_be_truncated_are_dropped(prompt: int, chosen: int, rejected: int, kept: int) -> None:
    steps = filter_pairs([row(prompt, chosen, rejected)], PairFilters(max_length=60, max_prompt_length=8), words)
    assert len(steps["train_dataset_remove_trunc"]) == kept


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        (PairFilters(max_prompt_length=8), {"train_dataset_filter_urls": 2}),
        (PairFilters(max_prompt_length=8, ignore_rejected=False), {"train_dataset_filter_urls": 1}),
        (PairFilters(max_prompt_length=8, filter_urls=False), {}),
    ],
)
def test_steps_and_their_counts(filters: PairFilters, left: dict[str, int]) -> None:
    rows = [row(), row(link="chosen"), row(link="rejected"), row(prompt=9, link="chosen")]
    steps = {name: len(kept) for name, kept in filter_pairs(rows, filters, words).items()}
    assert steps == {"train_dataset": 4, "train_dataset_remove_trunc": 3, **left}
    assert list(steps)[:2] == ["train_dataset", "train_dataset_remove_trunc"]
