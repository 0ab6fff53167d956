"""From prompts to answers, verdicts and training: `sample`, `score` and `rlhf` after one another, with real models."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swiftlike.cli.app import perform
from swiftlike.core.errors import UserError

from .runs import Ran, free_port, train, write_rows

MODEL = ["--model_type", "tiny-llama"]
SHORT = ["--num_return_sequences", "3", "--max_new_tokens", "8", "--seed", "7"]
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 prompts, a long one and a repeated one among them."""
    rows = [
        {"query": f"Say {'again ' * (number % 5)}{number}.", "response": f"It is {number}."} for number in range(11)
    ]
    return write_rows(tmp_path_factory.mktemp("prompts") / "prompts.jsonl", [*rows, rows[0]])


@pytest.fixture(scope="module")
def judge_model(tmp_path_factory: pytest.TempPathFactory, pairs: Path) -> Path:
    """A reward model, two steps old."""
    flags = {"model_type": "tiny-llama", "dataset": pairs, "max_steps": 2, "save_strategy": "steps", "save_steps": 2}
    return train("rlhf", tmp_path_factory.mktemp("rm"), rlhf_type="rm", **flags).checkpoint


def swiftlike(*words: Any) -> int:
    return perform(str(words[0]), [str(word) for word in words[1:]])


def get(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def start(*words: Any, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "swiftlike", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **env},
    )


def finished(process: subprocess.Popen[str]) -> str:
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 0, text
    return text


# -- sample -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory, prompts: Path) -> Path:
    """Answers of one undisturbed run."""
    output = tmp_path_factory.mktemp("sampled") / "answers.jsonl"
    assert swiftlike("sample", prompts, *MODEL, *SHORT, "--output", output) == 0
    return output


def test_the_same_again_whatever_is_computed_together(tmp_path: Path, prompts: Path, sampled: Path) -> None:
    again = tmp_path / "again.jsonl"
    assert swiftlike("sample", prompts, *MODEL, *SHORT, "--output", again, "--max_batch_size", 2) == 0
    assert again.read_bytes() == sampled.read_bytes()
    rows = get(sampled)
    assert [len(row["completions"]) for row in rows] == [3] * 12
    assert rows[0]["prompt"] == rows[-1]["prompt"]
    assert rows[0]["completions"] != rows[-1]["completions"]  # another row, another seed
    assert all(len(set(row["completions"])) > 1 for row in rows)
    with pytest.raises(UserError, match="exists already"):
        swiftlike("sample", prompts, *MODEL, *SHORT, "--output", again)


@pytest.mark.parametrize("flags", [["--seed", "8"], ["--seed", "7", "--iteration", "1"]], ids=" ".join)
def test_other_seeds_and_iterations_give_other_answers(tmp_path, prompts, sampled, flags) -> None:
    output = tmp_path / "other.jsonl"
    assert swiftlike("sample", prompts, *MODEL, *SHORT[:-2], *flags, "--output", output) == 0
    same = [one["completions"] == other["completions"] for one, other in zip(get(output), get(sampled), strict=True)]
    assert not any(same)


def test_more_temperatures_and_the_greedy_answer(tmp_path: Path, prompts: Path, sampled: Path) -> None:
    output, greedy = tmp_path / "more.jsonl", tmp_path / "greedy.jsonl"
    flags = ["--temperatures", "1.0", "0.3", "--add_zero_temperature", "true", "--include_gt", "true"]
    assert swiftlike("sample", prompts, *MODEL, *SHORT, *flags, "--output", output) == 0
    one = ["--temperature", "0", "--num_return_sequences", "1", "--max_new_tokens", "8"]
    assert swiftlike("sample", prompts, *MODEL, *one, "--output", greedy) == 0
    for row, first, likeliest, number in zip(get(output), get(sampled), get(greedy), [*range(11), 0], strict=True):
        assert row["completions"][:3] == first["completions"]
        assert row["completions"][3:5] == [f"It is {number}.", *likeliest["completions"]]
        assert len(row["completions"]) == 8


def test_pieces_are_the_whole(tmp_path: Path, prompts: Path, sampled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "pieces.jsonl"
    monkeypatch.setenv("DIST_NNODES", "5")
    for shard in (3, 0, 4, 1, 2):
        assert not output.exists()
        monkeypatch.setenv("DIST_NODE_RANK", str(shard))
        assert swiftlike("sample", prompts, *MODEL, *SHORT, "--output", output) == 0
    assert output.read_bytes() == sampled.read_bytes()
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert sorted(path.name for path in folder.iterdir()) == [f"shard-0000{k}-of-00005.jsonl" for k in range(5)]


@pytest.mark.slow
def test_processes_of_one_machine(tmp_path: Path, prompts: Path, sampled: Path) -> None:
    output = tmp_path / "processes.jsonl"
    env = {"NPROC_PER_NODE": "2", "MASTER_PORT": str(free_port())}
    finished(start("sample", prompts, *MODEL, *SHORT, "--output", output, **env))
    assert output.read_bytes() == sampled.read_bytes()


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path: Path, prompts: Path, sampled: Path) -> None:
    output = tmp_path / "answers.jsonl"
    part = tmp_path / "answers.jsonl.part"
    words = ["sample", prompts, *MODEL, *SHORT, "--output", output]
    killed = start(*words, "--max_batch_size", 1)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and killed.poll() is None:
        if part.exists() and part.read_bytes().count(b"\n") > 3:
            break
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait(60)
    done = part.read_bytes().count(b"\n") - 1
    assert 3 <= done < 12
    assert not output.exists()
    with pytest.raises(UserError, match="seed: 7 then, 9 now"):
        swiftlike(*words[:-3], "9", "--output", output)
    before = part.read_bytes()
    text = finished(start(*words))
    assert f"going on: {done} of 12" in text
    assert output.read_bytes() == sampled.read_bytes()
    assert not part.exists()
    rows = {json.loads(line)["row"] for line in before.splitlines()[1 : done + 1]}
    assert len(rows) == done


def test_a_bad_row_is_an_error_of_its_own(tmp_path: Path, prompts: Path, sampled: Path) -> None:
    lines = prompts.read_text().splitlines()
    rows = [lines[0], "no json", '{"nothing": 1}', *lines[1:]]
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(rows) + "\n")
    output = tmp_path / "answers.jsonl"
    assert swiftlike("sample", data, *MODEL, *SHORT, "--output", output) == 0
    assert len(get(output)) == 12
    assert get(output)[0] == get(sampled)[0]
    assert [row["origin"] for row in get(tmp_path / "answers.errors.jsonl")] == [f"{data}:2", f"{data}:3"]


@pytest.mark.parametrize("family", ["tiny-llava1_6", "tiny-qwen2_5-vl"])
def test_pictures(tmp_path: Path, mixed: Path, family: str) -> None:
    good = get(mixed)
    broken = {"query": "<image>What is it?", "response": "A.", "rejected_response": "B.", "images": ["broken.png"]}
    data = write_rows(mixed.parent / f"with_broken_{family}.jsonl", [broken, *good])
    (mixed.parent / "broken.png").write_bytes((mixed.parent / "0.png").read_bytes()[:60])
    output = tmp_path / "answers.jsonl"
    flags = ["--model_type", family, *SHORT, "--output_format", "chat"]
    assert swiftlike("sample", data, *flags, "--output", output) == 0
    rows = get(output)
    assert len(rows) == len(good)
    assert [Path(row["images"][0]).is_file() for row in rows if "images" in row] == [True] * 3
    (error,) = get(tmp_path / "answers.errors.jsonl")
    assert (error["origin"], "image" in error["error"]) == (f"{data}:1", True)


def test_a_reward_model_does_not_answer(tmp_path: Path, prompts: Path, judge_model: Path) -> None:
    with pytest.raises(UserError, match="reward model"):
        swiftlike("sample", prompts, "--ckpt_dir", judge_model, "--output", tmp_path / "answers.jsonl")


# -- score ------------------------------------------------------------------------------------------------------------


def test_rewards_do_not_depend_on_what_is_scored_together(tmp_path: Path, sampled: Path, judge_model: Path) -> None:
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    assert swiftlike("score", sampled, "--ckpt_dir", judge_model, "--output", one) == 0
    assert swiftlike("score", sampled, "--ckpt_dir", judge_model, "--output", other, "--max_batch_size", 1) == 0
    for mine, theirs, asked in zip(get(one), get(other), get(sampled), strict=True):
        assert mine["rewards"] == pytest.approx(theirs["rewards"], abs=1e-5)
        said = [answer for answer in asked["completions"] if answer.strip()]
        assert (mine["prompt"], mine["completions"]) == (asked["prompt"], said)
        assert len(mine["rewards"]) == len(said)
    assert len({reward for row in get(one) for reward in row["rewards"]}) > 12


def test_writers_agree_with_the_rewards(tmp_path: Path, sampled: Path, judge_model: Path) -> None:
    made = {}
    for write in ("rewards", "best_of_n", "rejection", "pairs"):
        output = tmp_path / f"{write}.jsonl"
        assert swiftlike("score", sampled, "--ckpt_dir", judge_model, "--write", write, "--output", output) == 0
        made[write] = get(output)
    for row, best, kept, pair in zip(*made.values(), strict=True):
        ranked = sorted(zip(row["rewards"], row["completions"], strict=True), key=lambda one: -one[0])
        assert best == {"query": row["prompt"], "response": ranked[0][1]}
        assert kept["target"] == ranked[0][1]
        assert sorted(kept["scores"].values()) == pytest.approx(sorted(row["rewards"]), abs=1e-5)
        assert pair["chosen"][-1]["content"] == ranked[0][1]
        assert pair["rejected"][-1]["content"] == ranked[-1][1]


@pytest.mark.parametrize(
    ("output_format", "write", "rlhf"),
    [
        ("exo", "rewards", {"rlhf_type": "exo", "loss_type": "exo-rw", "num_contrastive": 3}),
        ("aipo", "pairs", {"rlhf_type": "aipo"}),
        ("chat", "pairs", {"rlhf_type": "dpo"}),
        ("apo", "best_of_n", None),
        ("aipo", "rewards", {"rlhf_type": "dpo"}),
    ],
)
def test_the_whole_way(tmp_path, prompts, judge_model, output_format, write, rlhf) -> None:
    answers, scored = tmp_path / "answers.jsonl", tmp_path / "scored.jsonl"
    flags = [*MODEL, *SHORT, "--output_format", output_format]
    assert swiftlike("sample", prompts, *flags, "--output", answers) == 0
    assert swiftlike("score", answers, "--ckpt_dir", judge_model, "--write", write, "--output", scored) == 0
    run: Ran = train(
        "rlhf" if rlhf else "sft",
        tmp_path / "trained",
        model_type="tiny-llama",
        dataset=scored,
        max_steps=2,
        batch_size=4,
        **(rlhf or {}),
    )
    assert len(run.losses) == 2
    assert all(loss == loss for loss in run.losses)


def test_a_trained_adapter_answers_differently(tmp_path: Path, prompts: Path, sampled: Path, pairs: Path) -> None:
    flags = {"model_type": "tiny-llama", "dataset": pairs, "max_steps": 2, "save_strategy": "steps", "save_steps": 2}
    trained = train("rlhf", tmp_path / "dpo", rlhf_type="dpo", learning_rate=1e-2, **flags)
    output = tmp_path / "answers.jsonl"
    assert swiftlike("sample", prompts, "--ckpt_dir", trained.checkpoint, *SHORT, "--output", output) == 0
    assert get(output) != get(sampled)


# -- a judge that is a model of ours ----------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of a model that has learnt to give every answer a mark."""
    rows = [{"query": f"Mark number {number}.", "response": "[[7]]"} for number in range(8)]
    data = write_rows(tmp_path / "marks.jsonl", rows)
    flags = {"sft_type": "full", "learning_rate": 5e-3, "max_steps": 40, "save_strategy": "steps", "save_steps": 40}
    learnt = train("sft", tmp_path / "judge", model_type="tiny-llama", dataset=data, **flags)
    assert learnt.losses[-1] < 0.1
    port = free_port()
    words = ["--served_model_name", "judge", "--host", "127.0.0.1", "--port", port]
    server = start("deploy", "--ckpt_dir", learnt.checkpoint, *words)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(server, url)
        yield url
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(30)
        server.kill()


def _wait(server: subprocess.Popen[str], url: str) -> None:
    import urllib.request

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None, server.communicate()[0]
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        time.sleep(0.2)
    raise AssertionError("the server did not start")


@pytest.mark.slow
def test_our_own_server_judges(tmp_path: Path, served: str) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [{"prompt": "q", "completions": ["1", "2"]}])
    output = tmp_path / "scored.jsonl"
    judge = ["--judge_url", f"{served}/v1", "--judge_model", "judge", "--judge_prompt", "Mark number {answer}."]
    cache = ["--judge_cache", tmp_path / "cache.sqlite", "--judge_max_tokens", 8]
    assert swiftlike("score", data, *judge, *cache, "--output", output) == 0
    assert get(output)[0]["rewards"] == [7, 7]
