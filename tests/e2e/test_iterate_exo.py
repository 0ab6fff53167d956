"""EXO from one file: what each set-up asks of the stages, and that the demo's reward rises along the checkpoints."""

from __future__ import annotations

import math

import pytest

from swiftlike.datasets_registry.syntax import parse
from tests.e2e.conftest import Installed
from tests.e2e.recipes import commands, iterate, states, table, times, value

SMALLER = ("num_save_checkpoint=2", "eval_sample.num_return_sequences=4")
BEFORE = ["sft", "rm", "generate", "label", "align", "sft_answers", "sft_rewards", "sft_kl"]
ROUND = ("answers", "rewards", "kl")


@pytest.mark.parametrize(
    ("recipe", "answers", "longest", "beta_r"),
    [
        ("exo", "4", "200", "0.5"),
        ("exo_hh", "2", "200", "0.5"),
        ("exo_tldr", "4", "75", "0.5"),
        ("exo_imdb", "4", "500", "0.1"),
    ],
)
def test_the_published_set_ups(recipe: str, answers: str, longest: str, beta_r: str) -> None:
    steps = commands(recipe)
    generate, align = steps["generate"], steps["align"]
    assert (value(generate, "num_return_sequences"), value(generate, "max_new_tokens")) == (answers, longest)
    assert (value(generate, "temperature"), value(align, "temperature")) == ("0.8", "0.8")
    assert value(align, "num_contrastive") == answers
    assert (value(align, "beta_pi"), value(align, "beta_r")) == (beta_r, beta_r)
    assert value(align, "max_completion_length") == longest
    assert value(steps["ckpt2/answers"], "num_return_sequences") == "4"
    assert ("rm" in steps) == (recipe != "exo_imdb")
    for words in steps.values():
        for data in filter(None, (value(words, "dataset"), value(words, "val_dataset"))):
            assert data.startswith("output/") or parse(data).card is not None


@pytest.mark.parametrize("loss", ["exo-rw", "dpo-rw", "exo-pref", "dpo-pref"])
def test_what_a_loss_learns_from(loss: str) -> None:
    steps = commands("exo", f"loss={loss}", "output_dir=out")
    sampled = loss.endswith("rw")
    assert ("generate" in steps, "label" in steps) == (sampled, sampled)
    assert value(steps["align"], "loss_type") == loss
    assert value(steps["align"], "dataset") == ("out/label/scored.jsonl" if sampled else "hh-rlhf:helpful-base")


def test_an_adapter_is_merged_before_others_start_from_it() -> None:
    steps = commands("exo", "train.sft_type=lora", "output_dir=out")
    assert value(steps["align"], "model") == value(steps["rm"], "model") == "out/merge"
    assert value(steps["ckpt1/kl"], "ref_model") == "out/merge"


@pytest.mark.slow
def test_the_demo_trades_distance_for_reward_and_is_done_once(swiftlike: Installed) -> None:
    done = iterate(swiftlike, "demo_exo", *SMALLER)
    assert done.code == 0, done.err
    root = swiftlike.folder / "output" / "demo_exo"
    rows = table(root)
    assert list(rows) == ["sft", "ckpt1", "ckpt2"]
    first, middle, last = rows.values()
    assert first["kl"] == pytest.approx(0, abs=1e-4)
    assert 0.05 < middle["kl"] < last["kl"] < 20
    error = math.hypot(first["mean_reward_stderr"], middle["mean_reward_stderr"])
    assert middle["mean_reward"] > first["mean_reward"] + 3 * error
    assert last["mean_reward"] > middle["mean_reward"] + 0.01
    assert states(swiftlike, "demo_exo", *SMALLER) == ["done"] * (len(BEFORE) + 2 * len(ROUND) + 1)

    before = times(root)
    assert iterate(swiftlike, "demo_exo", *SMALLER).code == 0
    assert times(root) == before
