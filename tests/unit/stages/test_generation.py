"""Prompts to be answered and their answers."""

from __future__ import annotations

import pytest

from swiftlike.core.errors import UserError
from swiftlike.datasets_registry.card import BadRow
from swiftlike.stages.generation import clean, filter_prompt, generation_row, with_responses

from .words import bot, roles, system, user, words


@pytest.mark.parametrize(
    ("messages", "add", "text"),
    [
        ([user("q"), bot("a"), user("more"), bot("b")], False, "[user]q[assistant]"),
        ([user("q")], True, "[system][user]q[assistant]"),
        ([system("s"), user("q")], True, "[system]s[user]q[assistant]"),
        ([system(""), user("q")], False, "[system][user]q[assistant]"),
    ],
)
def test_only_the_first_turn_is_asked(messages: list, add: bool, text: str) -> None:
    row = generation_row({"messages": messages, "metadata": 7}, roles, add_system_message=add)
    assert row["prompt_with_chat_template"] == text
    assert (row["prompt"], row["metadata"]) == ("q", 7)
    assert row.get("gt") == ("a" if len(messages) == 4 else None)
    assert ("gt" in row) == (len(messages) == 4)


@pytest.mark.parametrize("messages", [[], [system("s")], [bot("a")], [user("q"), user("q")], [user("q"), system("s")]])
def test_other_conversations_are_bad_rows(messages: list) -> None:
    with pytest.raises(BadRow, match="do not alternate"):
        generation_row({"messages": messages}, roles)


@pytest.mark.parametrize(("length", "kept"), [(2, False), (3, True), (512, True), (513, False)])
def test_limits_are_included(length: int, kept: bool) -> None:
    assert filter_prompt("w " * length, words) is kept


@pytest.mark.parametrize(("answer", "expected"), [("\n hi </s>", "hi "), ("a</s>b</s>", "ab"), ("</s> x", "x")])
def test_answers_are_cleaned(answer: str, expected: str) -> None:
    assert clean(answer) == expected


def test_order_of_answers() -> None:
    row = {"prompt": "q", "gt": " own</s>"}
    done = with_responses(row, [" a", "b"], include_gt=True, greedy=" g</s>", additional=[" c"])
    assert done == {**row, "responses": ["a", "b", " own</s>", "g", "c"]}


def test_no_answer_in_the_data() -> None:
    with pytest.raises(UserError, match="include_gt adds the answer of the data"):
        with_responses({"prompt": "q"}, ["a"], include_gt=True)
