"""Prompts to be answered, and what becomes of the answers."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping, Sequence
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.stages.conversation import Count, Template, first_turn


def generation_row(example: Mapping[str, Any], template: Template, *, add_system_message: bool = False) -> dict:
    """The example with `prompt`, `prompt_with_chat_template`, and `gt` where the data has an answer.

    Only the first turn of `messages` is used. With `add_system_message` an empty system message is put where there is
    none. BadRow when user and assistant do not alternate.
    """
    turn = first_turn(example["messages"])
    if add_system_message and turn.system is None:
        turn = dc.replace(turn, system="")
    row = dict(example) | {"prompt": turn.query, "prompt_with_chat_template": template(turn.prompt)}
    return row if turn.answer is None else row | {"gt": turn.answer}


def filter_prompt(prompt: str, count: Count, *, prompt_min_length: int = 3, prompt_max_length: int = 512) -> bool:
    """Whether the raw prompt's number of tokens is within the limits, both included."""
    return prompt_min_length <= count(prompt) <= prompt_max_length


def clean(answer: str) -> str:
    """An answer without end tokens that were written out, and without white space before it."""
    return answer.replace("</s>", "").lstrip()


def with_responses(
    row: Mapping[str, Any],
    sampled: Sequence[str],
    *,
    include_gt: bool = False,
    greedy: str | None = None,
    additional: Sequence[str] = (),
) -> dict[str, Any]:
    """The row with `responses`: sampled answers, the data's own, the greedy one, those of another temperature.

    UserError when the data's own answer is asked for and there is none.
    """
    if include_gt and row.get("gt") is None:
        raise UserError(
            "include_gt adds the answer of the data, and this row has none",
            problems=[str(row["prompt"])[:80]],
            hint="leave include_gt off, or use data with answers",
        )
    responses = [clean(answer) for answer in sampled]
    if include_gt:
        responses.append(row["gt"])
    if greedy is not None:
        responses.append(clean(greedy))
    return dict(row) | {"responses": responses + [clean(answer) for answer in additional]}
