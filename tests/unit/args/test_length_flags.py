"""Limits of length that leave no room for each other, and their other names."""

import pytest

from swiftlike.cli.commands import load
from swiftlike.cli.layers import build_run
from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run

MINIMAL = ["--model", "m", "--dataset", "d"]


def asked(words: str) -> Run:
    return build_run(load("rlhf"), [*MINIMAL, *words.split()], {})[0]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--truncation_strategy keep_end --max_length 256", "cuts prompts to 256 tokens, which leaves nothing"),
        ("--truncation_strategy keep_start --max_length -1", "needs a --max_length"),
        ("--max_prompt_length 100 --max_length 100", "--max_prompt_length 100 leaves nothing of --max_length 100"),
        ("--max_completion_length 101 --max_length 100", "--max_completion_length 101 is more than --max_length 100"),
        ("--max_prompt_length 0", "0 is less than 1"),
    ],
)
def test_no_room(words: str, reason: str) -> None:
    with pytest.raises(UserError) as error:
        asked(words)
    assert any(reason in problem for problem in error.value.problems)


@pytest.mark.parametrize(
    "words",
    [
        "--truncation_strategy keep_end --max_length 257",
        "--truncation_strategy keep_end",
        "--truncation_strategy keep_end --max_length 64 --max_prompt_length 32",
        "--truncation_strategy left_each --max_length 512 --max_completion_length 512",  # EXO's defaults
        "--max_prompt_length 512 --max_length -1",
    ],
)
def test_room(words: str) -> None:
    asked(words)


def test_other_names() -> None:
    data = asked("--truncation_mode keep_start --max_gen_len 75 --max_length 650").data
    assert (data.truncation_strategy, data.max_completion_length, data.max_length) == ("keep_start", 75, 650)
    assert asked("--max_target_length 75").data.max_completion_length == 75
