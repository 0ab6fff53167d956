"""APO's game from one file: how the players are wired, and that both get better in the demo."""

from __future__ import annotations

import math

import pytest

from tests.e2e.conftest import Installed
from tests.e2e.recipes import commands, iterate, states, table, times, value

SMALLER = ("rounds=1",)
ROUND = (
    *("generate", "game", "rm", "best", "train", "policy", "answers", "judged", "rm_eval"),
    "base_eval",
)


def test_the_players_take_turns() -> None:
    steps = commands("apo_game", "model=mine", "output_dir=out", "rounds=2")
    assert [value(steps[f"round{n}/generate"], "model") for n in (1, 2)] == ["mine", "out/round1/policy"]
    assert [value(steps[f"round{n}/train"], "model") for n in (1, 2)] == ["mine", "out/round1/policy"]
    for n in (1, 2):  # every reward model begins as the base one, and sees the annotated pairs too
        rm = steps[f"round{n}/rm"]
        assert value(rm, "model") == "out/base_rm/ckpt1"
        start = rm.index("--dataset")
        pairs = "hh-rlhf:helpful-base/harmless-base"
        assert list(rm[start + 1 : start + 3]) == [pairs, f"out/round{n}/game/rows.jsonl"]
        assert value(steps[f"round{n}/best"], "ckpt_dir") == f"out/round{n}/rm"
        assert value(steps[f"round{n}/train"], "dataset") == f"out/round{n}/best/scored.jsonl"
    assert value(steps["base_rm"], "task_type") == "rm"


@pytest.mark.parametrize(("improve", "command", "write"), [("sft", "sft", "rejection"), ("dpo", "rlhf", "pairs")])
def test_how_the_language_model_learns(improve: str, command: str, write: str) -> None:
    steps = commands("apo_game", f"improve={improve}")
    assert steps["round1/train"][0] == command
    assert value(steps["round1/best"], "write") == write


@pytest.mark.parametrize("sft_type", ["full", "lora"])
def test_an_adapter_is_merged(sft_type: str) -> None:
    words = commands("apo_game", f"train.sft_type={sft_type}")["round1/policy"]
    assert value(words, "merge_lora") == str(sft_type == "lora").lower()


@pytest.mark.slow
def test_both_players_of_the_demo_get_better_and_it_is_done_once(swiftlike: Installed) -> None:
    done = iterate(swiftlike, "demo_apo", *SMALLER)
    assert done.code == 0, done.err
    root = swiftlike.folder / "output" / "demo_apo"
    rows = table(root)
    assert list(rows) == ["before0", "round1"]
    before, after = rows.values()
    error = math.hypot(before["mean_reward_stderr"], after["mean_reward_stderr"])
    assert after["mean_reward"] > before["mean_reward"] + 3 * error
    assert before["rm_accuracy"] == before["base_accuracy"]  # the base reward model is the first one
    assert after["rm_accuracy"] > before["rm_accuracy"] - 0.02
    assert after["rm_accuracy"] > after["base_accuracy"] + 0.02  # on the same answers
    assert states(swiftlike, "demo_apo", *SMALLER) == ["done"] * (2 + 4 + len(ROUND) + 1)

    written = times(root)
    assert iterate(swiftlike, "demo_apo", *SMALLER).code == 0
    assert times(root) == written
