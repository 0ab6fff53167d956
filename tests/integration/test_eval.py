"""`swiftlike eval` on models that are trained here: its numbers are those of training's own evaluation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from swiftlike.cli.app import perform
from swiftlike.core.errors import UserError
from swiftlike.core.optional import available
from swiftlike.stages.evaluation import mt_bench

from .runs import Ran, train, write_rows

SAVED = {"save_strategy": "steps", "max_steps": 2, "model_type": "tiny-llama"}


def evaluated(place: Path, kind: str, *words: Any) -> dict[str, Any]:
    """The numbers of an evaluation that succeeds."""
    assert perform("eval", ["--eval_type", kind, "--output_dir", str(place), *map(str, words)]) == 0
    return json.loads(max(place.glob(f"{kind}*.json"), key=lambda path: path.stat().st_mtime_ns).read_text())


@pytest.fixture(scope="module")
def reward(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    flags = {"rlhf_type": "rm", "learning_rate": 1e-4, "dataset": pairs, "val_dataset": pairs}
    return train("rlhf", tmp_path_factory.mktemp("rm"), **SAVED, **flags)


@pytest.fixture(scope="module")
def policy(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    flags = {"rlhf_type": "dpo", "learning_rate": 1e-3, "dataset": pairs, "val_dataset": pairs}
    return train("rlhf", tmp_path_factory.mktemp("dpo"), **SAVED, **flags)


# -- reward models ----------------------------------------------------------------------------------------------------


def test_a_reward_model_on_pairs(reward: Ran, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluated(tmp_path, "reward", pairs, "--ckpt_dir", reward.checkpoint, "--eval_batch_size", 5)
    wanted = reward.evaluations[-1]
    assert found["accuracy"] == wanted["eval_accuracy"]
    assert (found["rows"], found["pairs"], found["bad_rows"]) == (19, 19, {})
    for ours, theirs in (("mean_margin", "margin"), ("average_score", "mean_reward"), ("ranking_loss", "loss")):
        assert found[ours] == pytest.approx(wanted[f"eval_{theirs}"], rel=1e-5, abs=1e-6)
    assert (tmp_path / "images" / "reliability_bin10.png").read_bytes()[:4] == b"\x89PNG"
    assert f"accuracy {found['accuracy']:.6g}" in re.sub(" +", " ", capsys.readouterr().out)
    assert 0 < found["accuracy"] < 1


def test_a_reward_model_on_lists_and_its_calibration(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": f"What about number {number}?",
            "completions": [f"It is {k} times {number}." + " So be it." * (k * number % 5) for k in range(size)],
            "rewards": [(k * 7 + number) % 4 - 1.5 for k in range(size)],
        }
        for number in range(9)
        for size in [2 + number % 3]
    ]
    lists = write_rows(tmp_path / "lists.jsonl", rows)
    flags = {"rlhf_type": "apo_rm", "learning_rate": 1e-2, "calibration_bins": [3, 10], "rm_pooling": "mean"}
    ran = train("rlhf", tmp_path / "run", **SAVED, **flags, dataset=lists, val_dataset=lists)
    found = evaluated(tmp_path, "reward", lists, "--ckpt_dir", ran.checkpoint, "--calibration_bins", 3, 10)
    wanted = {name.removeprefix("eval_"): value for name, value in ran.evaluations[-1].items()}
    names = [name for name in wanted if name.startswith("calibration_")]
    assert len(names) == 6
    assert [found[name] for name in names] == pytest.approx([wanted[name] for name in names], abs=1e-6)
    assert found["accuracy"] == wanted["accuracy"]
    assert found["average_score"] == pytest.approx(wanted["avg_score"], abs=1e-6)
    assert found["mean_margin"] == pytest.approx(wanted["rewards/margins"], abs=1e-6)


def test_bad_rows_are_counted(reward: Ran, tmp_path: Path) -> None:
    good = {"query": "Which?", "response": "This one.", "rejected_response": "That one."}
    long = good | {"response": "word " * 5000}
    tie = {"prompt": "q", "completions": ["a", "b"], "rewards": [1, 1]}
    rows = write_rows(tmp_path / "rows.jsonl", [good, {"query": "no answer"}, long, tie])
    found = evaluated(tmp_path, "reward", rows, "--ckpt_dir", reward.checkpoint)
    assert (found["rows"], found["pairs"], sum(found["bad_rows"].values())) == (2, 1, 2)
    assert "longer than max_length" in found["bad_rows"]
    with pytest.raises(UserError, match="bad rows"):
        evaluated(tmp_path, "reward", rows, "--ckpt_dir", reward.checkpoint, "--on_bad_row", "error")


# -- policies ---------------------------------------------------------------------------------------------------------


def test_a_policy_against_its_base(policy: Ran, pairs: Path, tmp_path: Path) -> None:
    found = evaluated(tmp_path, "preference", pairs, "--ckpt_dir", policy.checkpoint, "--beta", 0.1)
    wanted = {name.removeprefix("eval_"): value for name, value in policy.evaluations[-1].items()}
    assert found["rewards/accuracies"] == wanted["rewards/accuracies"]
    for name in ("rewards/margins", "rewards/chosen", "logps/chosen", "logps/rejected"):
        assert found[name] == pytest.approx(wanted[name], rel=1e-4, abs=1e-5)
    assert found["mean_margin"] == pytest.approx(wanted["logps/chosen"] - wanted["logps/rejected"], abs=1e-3)
    averaged = found["logps_averaged/chosen"] - found["logps_averaged/rejected"]
    assert found["mean_margin_averaged"] == pytest.approx(averaged, abs=1e-5)


def test_length_averages_are_those_of_simpo(pairs: Path, tmp_path: Path) -> None:
    flags = {"rlhf_type": "simpo", "learning_rate": 1e-2, "dataset": pairs, "val_dataset": pairs}
    ran = train("rlhf", tmp_path / "run", **SAVED, **flags, sft_type="full")
    found = evaluated(tmp_path, "preference", pairs, "--ckpt_dir", ran.checkpoint)
    wanted = ran.evaluations[-1]
    assert found["accuracy_averaged"] == wanted["eval_rewards/accuracies"]
    assert 2.0 * found["mean_margin_averaged"] == pytest.approx(wanted["eval_rewards/margins"], rel=1e-4)
    assert "rewards/accuracies" not in found


def test_another_model_as_reference(policy: Ran, pairs: Path, tmp_path: Path) -> None:
    """A model is its own reference: no implicit reward; and the base given by name is the base inside the adapter."""
    own = evaluated(tmp_path, "preference", pairs, "--ckpt_dir", policy.checkpoint, "--ref_model", policy.checkpoint)
    assert own["rewards/margins"] == pytest.approx(0.0, abs=1e-6)
    inside = evaluated(tmp_path, "preference", pairs, "--ckpt_dir", policy.checkpoint)
    base = json.loads((policy.checkpoint / "adapter_config.json").read_text())["base_model_name_or_path"]
    given = evaluated(tmp_path, "preference", pairs, "--ckpt_dir", policy.checkpoint, "--ref_model", base)
    assert given["rewards/margins"] == pytest.approx(inside["rewards/margins"], abs=1e-6)
    assert inside["rewards/margins"] != 0


# -- answers ----------------------------------------------------------------------------------------------------------


def test_win_rate_under_a_reward_model(reward: Ran, tmp_path: Path) -> None:
    """An infer file against an AlpacaEval file: the rewards that the model gives decide."""
    prompts = [f"Write a line about the {word}." for word in ("sea", "wood", "clock", "bread")]
    first = [
        {"index": i, "messages": [{"role": "user", "content": one}, {"role": "assistant", "content": "It is quiet."}],
         "response": "It is quiet.", "labels": None, "images": [], "finish_reason": "stop", "error": None}
        for i, one in enumerate(prompts)
    ]  # fmt: skip
    second = [{"instruction": one, "output": "No. I do not like it.", "generator": "g"} for one in prompts[::-1]]
    files = [write_rows(tmp_path / "a.jsonl", first), tmp_path / "b.json"]
    files[1].write_text(json.dumps(second))
    found = evaluated(tmp_path, "win_rate", "--results", *files, "--ckpt_dir", reward.checkpoint)
    both = [{"prompt": one, "completions": ["It is quiet.", "No. I do not like it."]} for one in prompts]
    data = write_rows(tmp_path / "both.jsonl", both)
    words = [data, "--output", tmp_path / "scored.jsonl", "--ckpt_dir", reward.checkpoint]
    assert perform("score", [str(one) for one in words]) == 0
    scores = [json.loads(line)["rewards"] for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    assert found["win_rate"] == sum(mine > theirs for mine, theirs in scores) / 4
    assert (found["judged"], found["mean_length_first"], found["only_second"]) == (4, 12.0, 0)


QUESTIONS = [
    {"question_id": 82, "category": "math", "turns": ["Add 1 and 1.", "And 2 more?"]},
    {"question_id": 81, "category": "writing", "turns": ["Write a line.", "Shorter."]},
]
ARENA = [{"question_id": f"q{n}", "category": "c", "cluster": "c", "turns": [{"content": f"Say {n}."}]} for n in (1, 0)]


def test_answers_in_the_formats_of_the_benchmarks(policy: Ran, tmp_path: Path) -> None:
    model = ("--ckpt_dir", policy.checkpoint, "--max_new_tokens", 5, "--model_id", "org/run_iter1")
    asked = write_rows(tmp_path / "mt.jsonl", QUESTIONS)
    found = evaluated(tmp_path, "mt_bench", "--questions", asked, *model, "--num_choices", 2)
    rows = [json.loads(line) for line in Path(found["file"]).read_text().splitlines()]
    assert Path(found["file"]) == tmp_path / "mt_bench" / "model_answer" / "org_run_iter1.jsonl"
    assert [row["question_id"] for row in rows] == [81, 82]
    assert {row["model_id"] for row in rows} == {"org_run_iter1"}
    assert set(rows[0]) == {"question_id", "answer_id", "model_id", "choices", "tstamp"}
    assert [len(choice["turns"]) for row in rows for choice in row["choices"]] == [2] * 4
    first, second = (choice["turns"] for choice in rows[1]["choices"])
    assert mt_bench.temperature("math") == 0.0
    assert first == second
    assert rows[0]["choices"][0]["turns"] != rows[0]["choices"][1]["turns"]

    asked = write_rows(tmp_path / "arena.jsonl", [*ARENA, {"question_id": "bad"}])
    found = evaluated(tmp_path, "arena_hard", "--questions", asked, *model)
    rows = [json.loads(line) for line in Path(found["file"]).read_text().splitlines()]
    assert [row["question_id"] for row in rows] == ["q0", "q1"]
    turn = rows[0]["choices"][0]["turns"][0]
    assert isinstance(turn["content"], str)
    assert 0 <= turn["token_len"] <= 6
    assert found["bad_rows"] == {"no question": 1}

    examples = [{"instruction": f"Say {n}.", "dataset": "d", "output": "old", "generator": "old"} for n in range(3)]
    path = tmp_path / "alpaca.json"
    path.write_text(json.dumps(examples))
    found = evaluated(tmp_path, "alpaca_eval", "--questions", path, *model, "--limit", 2)
    rows = json.loads(Path(found["file"]).read_text())
    assert [(row["instruction"], row["dataset"], row["generator"]) for row in rows] == [
        ("Say 0.", "d", "org_run_iter1"),
        ("Say 1.", "d", "org_run_iter1"),
    ]
    assert all(row["output"] != "old" for row in rows)


def test_answers_that_are_there_are_kept(policy: Ran, tmp_path: Path) -> None:
    asked = write_rows(tmp_path / "arena.jsonl", ARENA)
    words = ("--questions", asked, "--ckpt_dir", policy.checkpoint, "--model_id", "m", "--max_new_tokens")
    path = Path(evaluated(tmp_path, "arena_hard", *words, 3)["file"])
    before = path.read_bytes()
    evaluated(tmp_path, "arena_hard", *words, 3)
    assert path.read_bytes() == before
    with pytest.raises(UserError, match="other settings"):
        evaluated(tmp_path, "arena_hard", *words, 4)
    evaluated(tmp_path, "arena_hard", *words, 4, "--overwrite", "true")
    assert path.read_bytes() != before


def test_a_stopped_run_goes_on(policy: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the second window, the first one is not asked again."""
    from swiftlike.engines.pt import PtEngine
    from swiftlike.pipelines.evaluate import generate

    monkeypatch.setattr(generate, "_WINDOW", 1)
    asked = write_rows(tmp_path / "arena.jsonl", ARENA)
    words = ("--questions", asked, "--ckpt_dir", policy.checkpoint, "--model_id", "m", "--max_new_tokens", 3)
    real, calls = PtEngine.generate, []

    def stopping(self: Any, requests: Any, done: Any = None) -> Any:
        calls.append(requests)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, requests, done)

    monkeypatch.setattr(PtEngine, "generate", stopping)
    with pytest.raises(KeyboardInterrupt):
        evaluated(tmp_path, "arena_hard", *words)
    found = evaluated(tmp_path, "arena_hard", *words)
    assert found["answers"] == 2
    assert [len(one) for one in calls] == [1, 1, 1]
    assert calls[2][0].prompt == calls[1][0].prompt
    assert not list(tmp_path.rglob("*.part"))


def test_standard_benchmarks_need_their_package(policy: Ran, tmp_path: Path) -> None:
    if available("lm_eval"):
        pytest.skip("lm-eval is installed")
    with pytest.raises(UserError, match="lm-eval") as caught:
        evaluated(tmp_path, "lm_eval", "--tasks", "arc_easy", "--ckpt_dir", policy.checkpoint)
    assert "swiftlike[eval]" in str(caught.value)


def test_what_lm_eval_is_told(policy: Ran) -> None:
    from swiftlike.cli.commands import load
    from swiftlike.cli.layers import build_run
    from swiftlike.pipelines.evaluate.standard import model_args
    from swiftlike.pipelines.serving import open_model

    words = ["--eval_type", "lm_eval", "--tasks", "x", "--ckpt_dir", str(policy.checkpoint)]
    opened = open_model(build_run(load("eval"), words, {})[0])
    args = model_args(opened)
    assert (args["peft"], args["dtype"]) == (str(policy.checkpoint), str(torch.float32).removeprefix("torch."))
    assert (Path(args["pretrained"]) / "config.json").is_file()
