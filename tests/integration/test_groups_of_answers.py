"""EXO, beta-DPO and AIPO trained for real: what must be equal is run twice and compared."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from swiftlike.core.errors import UserError

from .runs import Ran, distributed, same, train, write_rows

WORDS = ["red", "blue", "green", "small", "large", "round", "quick", "slow", "old", "new", "bright", "dark", "warm"]
TINY = {"model_type": "tiny-llama", "seed": "7", "ref_logps": "live", "learning_rate": "1e-3"}


def answers(draw: random.Random, count: int) -> list[str]:
    """Different answers of one to five words."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(draw.sample(WORDS, draw.randint(1, 5)))] = None
    return list(found)


def ranked(path: Path, sizes: list[int], seed: int = 0) -> Path:
    """Prompts with as many scored answers as `sizes` says."""
    draw = random.Random(seed)
    rows = [
        {
            "prompt": f"What is number {i}?",
            "completions": answers(draw, size),
            "rewards": [round(draw.uniform(-2, 2), 2) for _ in range(size)],
        }
        for i, size in enumerate(sizes)
    ]
    return write_rows(path, rows)


def pairs(path: Path, count: int, seed: int = 0) -> Path:
    """Preference pairs."""
    draw = random.Random(seed)
    rows = []
    for i in range(count):
        chosen, rejected = answers(draw, 2)
        rows.append({"prompt": f"What is number {i}?", "chosen": chosen, "rejected": rejected})
    return write_rows(path, rows)


# -- EXO ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["exo-rw", "exo-pref", "dpo-rw"])
def test_exo_layouts_and_splits_agree(tmp_path: Path, kind: str) -> None:
    """Prompts with 2, 4 and 6 answers in one batch: shared layout as split layout, one batch of 6 as 6 of one."""
    data = ranked(tmp_path / "r.jsonl", [4, 2, 6, 4, 2, 6, 4, 4, 2, 6, 2, 4])
    flags = TINY | {"rlhf_type": "exo", "loss_type": kind, "num_contrastive": "2", "dataset": data, "max_steps": "2"}
    whole = train("rlhf", tmp_path / "a", **flags | {"batch_size": "6"})
    split = train("rlhf", tmp_path / "b", **flags | {"batch_size": "6", "layout": "split"})
    single = train("rlhf", tmp_path / "c", **flags | {"batch_size": "1", "gradient_accumulation_steps": "6"})
    same(whole, split)
    same(whole, single)
    assert whole.losses[0] != whole.losses[1]


def test_exo_pref_on_pairs_is_exo_pref_on_rewards(tmp_path: Path) -> None:
    """A preference file and the reward file made from it train identically."""
    data = pairs(tmp_path / "p.jsonl", 16)
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    rewards = [
        {"prompt": row["prompt"], "completions": [row["chosen"], row["rejected"]], "rewards": [1, 0]} for row in rows
    ]
    flags = TINY | {"rlhf_type": "exo", "max_steps": "3", "beta_pi": "0.5"}
    one = train("rlhf", tmp_path / "a", **flags | {"dataset": data})
    other = train("rlhf", tmp_path / "b", **flags | {"dataset": write_rows(tmp_path / "r.jsonl", rewards)})
    same(one, other, relative=0, absolute=0)


def test_dpo_pref_is_dpo(tmp_path: Path) -> None:
    """With labels 1 and 0, dpo-pref at beta_pi is DPO at beta."""
    data = pairs(tmp_path / "p.jsonl", 16)
    flags = TINY | {"dataset": data, "max_steps": "3"}
    mine = train("rlhf", tmp_path / "a", **flags | {"rlhf_type": "exo", "loss_type": "dpo-pref", "beta_pi": "0.3"})
    plain = train("rlhf", tmp_path / "b", **flags | {"rlhf_type": "dpo", "beta": "0.3", "rpo_alpha": "none"})
    for name in ("loss", "grad_norm", "rewards/margins", "rewards/accuracies", "logps/chosen"):
        assert mine.column(name) == pytest.approx(plain.column(name), rel=1e-5, abs=1e-6)


def test_temperature_reaches_policy_and_reference(tmp_path: Path) -> None:
    """At the start policy and reference are equal whatever the temperature; later they differ from untempered ones."""
    data = ranked(tmp_path / "r.jsonl", [4] * 8)
    flags = TINY | {
        "rlhf_type": "exo",
        "loss_type": "exo-rw",
        "num_contrastive": "4",
        "dataset": data,
        "max_steps": "2",
    }
    flags |= {"warmup_ratio": "0"}
    warm = train("rlhf", tmp_path / "a", **flags | {"temperature": "0.7"})
    plain = train("rlhf", tmp_path / "b", **flags)
    stored = train("rlhf", tmp_path / "c", **flags | {"temperature": "0.7", "ref_logps": "cache"})
    assert warm.column("rewards/margins")[0] == pytest.approx(0, abs=1e-5)
    assert warm.losses[1] != pytest.approx(plain.losses[1], rel=1e-4)
    assert warm.column("logps/chosen")[0] != pytest.approx(plain.column("logps/chosen")[0], rel=1e-3)
    same(warm, stored)


def test_exo_brings_the_policy_to_the_rewards(tmp_path: Path) -> None:
    """Trained on a handful of groups, the distance to the target falls and the best answer gets the largest reward."""
    data = ranked(tmp_path / "r.jsonl", [4] * 8)
    flags = TINY | {"rlhf_type": "exo", "loss_type": "exo-rw", "num_contrastive": "4", "dataset": data}
    flags |= {
        "num_train_epochs": "40",
        "learning_rate": "3e-3",
        "lora_target_modules": "ALL",
        "lora_rank": "32",
        "beta_pi": "0.3",
    }
    ran = train("rlhf", tmp_path / "a", **flags)
    assert ran.losses[-1] < 0.2 * ran.losses[0]
    assert ran.column("rewards/accuracies")[-1] > 0.9


@pytest.mark.parametrize(
    ("rows", "flags", "said"),
    [
        ([[1.0, 2.0, 3.0]], {"num_contrastive": "2"}, "3 answers, --num_contrastive 2"),
        ([[0.7, 0.2]], {"loss_type": "dpo-pref"}, "must sum to 1"),
    ],
)
def test_rows_that_do_not_fit_are_named(tmp_path: Path, rows: list, flags: dict[str, Any], said: str) -> None:
    data = write_rows(
        tmp_path / "r.jsonl",
        [{"prompt": "Which?", "completions": WORDS[: len(row)], "rewards": row} for row in rows],
    )
    with pytest.raises(UserError) as error:
        train("rlhf", tmp_path / "out", rlhf_type="exo", dataset=data, **TINY | flags)
    text = "\n".join([str(error.value), *error.value.problems])
    assert said in text
    assert f"{data}:1" in text


def test_ties_are_counted_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A tied pair does not train, and is said; with --tie_policy second it does."""
    rows = [
        {"prompt": "Which?", "completions": ["red", "blue"], "rewards": [1, 1]},
        {"prompt": "What?", "completions": ["old", "new"], "rewards": [0, 2]},
    ]
    data = write_rows(tmp_path / "r.jsonl", rows)
    alone = write_rows(tmp_path / "one.jsonl", rows[1:])
    flags = TINY | {"rlhf_type": "exo", "max_steps": "2"}
    both = train("rlhf", tmp_path / "a", **flags | {"dataset": data})
    single = train("rlhf", tmp_path / "b", **flags | {"dataset": alone})
    second = train("rlhf", tmp_path / "c", **flags | {"dataset": data, "tie_policy": "second"})
    same(both, single)
    assert second.column("grad_norm")[0] != pytest.approx(both.column("grad_norm")[0], rel=1e-3)
    assert "1 of 2 groups have equal best answers" in caplog.text


# -- beta-DPO ----------------------------------------------------------------------------------------------------------

BETA = TINY | {"rlhf_type": "beta_dpo", "lora_target_modules": "ALL", "learning_rate": "5e-3"}
FACTS = ("loss", "beta_dpo/beta", "beta_dpo/gap_mean", "beta_dpo/gap_std", "beta_dpo/kept", "grad_norm")


def close(one: Ran, other: Ran) -> None:
    for name in FACTS:
        assert one.column(name) == pytest.approx(other.column(name), rel=1e-3, abs=1e-5)


def test_beta_follows_the_gaps(tmp_path: Path) -> None:
    """Statistics move as the formula says, from what is logged; a fifth of each batch is left out."""
    ran = train("rlhf", tmp_path / "a", **BETA | {"dataset": pairs(tmp_path / "p.jsonl", 40), "num_train_epochs": "2"})
    assert set(ran.column("beta_dpo/kept")) == {6.0}
    means = ran.column("beta_dpo/gap_mean")
    assert means[0] == pytest.approx(0, abs=1e-4)  # policy = reference
    assert ran.column("beta_dpo/beta")[0] == pytest.approx(0.1, abs=1e-4)
    margins = [margin / 0.1 for margin in ran.column("rewards/margins")]  # mean gap of each batch
    for before, after, margin in zip(means, means[1:], margins[1:], strict=False):
        assert after == pytest.approx(0.9 * before + 0.1 * margin, rel=1e-4, abs=1e-4)
    assert len({round(beta, 6) for beta in ran.column("beta_dpo/beta")}) > 5


def test_two_ranks_draw_the_mask_of_one(tmp_path: Path) -> None:
    """The same global batch in one process and in two: same mask, beta, statistics, loss, gradient; 34 rows leave a
    last batch that only one rank has rows of."""
    flags = BETA | {"dataset": pairs(tmp_path / "p.jsonl", 34), "num_train_epochs": "1"}
    one = train("rlhf", tmp_path / "one", **flags | {"batch_size": "8"})
    two = distributed("rlhf", tmp_path / "two", **flags | {"batch_size": "4"})
    close(one, two)
    assert len({*one.column("beta_dpo/kept")}) == 2  # the last batch is smaller


def test_resume_keeps_the_statistics(tmp_path: Path) -> None:
    """A resumed run prints what the uninterrupted one printed."""
    flags = BETA | {"dataset": pairs(tmp_path / "p.jsonl", 40), "num_train_epochs": "2"}
    flags |= {"save_strategy": "steps", "save_steps": "4", "save_total_limit": "9"}
    whole = train("rlhf", tmp_path / "a", **flags)
    again = train("rlhf", tmp_path / "b", **flags | {"resume_from_checkpoint": whole.folder / "checkpoint-4"})
    same(Ran(whole.folder, whole.lines[4:], []), again, relative=1e-9, absolute=1e-9)
    state = torch.load(whole.folder / "checkpoint-4" / "objective_0.pt", weights_only=False)["loss"]
    assert state.draws == 4
    assert state.gap_std > 0


def test_evaluation_changes_nothing(tmp_path: Path) -> None:
    """With an evaluation after every step the training numbers are the same; evaluation has beta as given, all rows."""
    flags = BETA | {"dataset": pairs(tmp_path / "p.jsonl", 24), "num_train_epochs": "2"}
    plain = train("rlhf", tmp_path / "a", **flags)
    held = {"val_dataset": pairs(tmp_path / "v.jsonl", 11, seed=1), "eval_strategy": "steps", "eval_steps": "1"}
    watched = train("rlhf", tmp_path / "b", **flags | held)
    for name in FACTS:
        assert plain.column(name) == watched.column(name)
    assert len(watched.evaluations) == len(watched.lines)
    assert not any("beta_dpo" in name for name in watched.evaluations[0])
    first = watched.evaluations[0]
    margin = first["eval_rewards/margins"]
    at_the_mean = math.log1p(math.exp(-margin))  # the loss is convex in the gap, so its mean lies a little above
    assert at_the_mean <= first["eval_loss"] < at_the_mean + 0.05


@pytest.mark.parametrize("batch", ["1", "2", "3"])
def test_small_batches_train(tmp_path: Path, batch: str) -> None:
    """A batch of one has no deviation; equal gaps at the first step have none either: both crash the original."""
    flags = BETA | {"dataset": pairs(tmp_path / "p.jsonl", 6), "batch_size": batch, "beta_filter_ratio": "0.9"}
    ran = train("rlhf", tmp_path / "a", **flags)
    assert set(ran.column("beta_dpo/kept")) == {1.0}
    assert all(loss == loss and abs(loss) < 10 for loss in ran.losses)


# -- AIPO --------------------------------------------------------------------------------------------------------------


def test_aipo_without_alpha_and_lambda_is_dpo(tmp_path: Path) -> None:
    data = pairs(tmp_path / "p.jsonl", 16)
    flags = TINY | {"dataset": data, "max_steps": "3"}
    mine = train("rlhf", tmp_path / "a", **flags | {"rlhf_type": "aipo", "aipo_alpha": "0", "aipo_lambda": "0"})
    plain = train("rlhf", tmp_path / "b", **flags | {"rlhf_type": "dpo", "rpo_alpha": "none"})
    for name in ("loss", "grad_norm", "rewards/margins", "logps/rejected"):
        assert mine.column(name) == pytest.approx(plain.column(name), rel=1e-5, abs=1e-6)


def test_aipo_splits_agree(tmp_path: Path) -> None:
    """The NLL is averaged per row, so one batch of 8 is 8 of one, and two processes are one."""
    flags = TINY | {"rlhf_type": "aipo", "dataset": pairs(tmp_path / "p.jsonl", 16), "aipo_lambda": "1.0"}
    whole = train("rlhf", tmp_path / "a", **flags)
    same(whole, train("rlhf", tmp_path / "b", **flags | {"batch_size": "1", "gradient_accumulation_steps": "8"}))
    two = distributed("rlhf", tmp_path / "c", **flags | {"batch_size": "4"})
    same(whole, two)
    for name in ("length/chosen", "margin/policy", "margin/reference", "regularization_term", "nll_loss"):
        assert name in whole.lines[0]
