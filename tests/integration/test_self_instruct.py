"""`swiftlike self_instruct` with a real model. It has random weights and writes noise, which makes new prompts too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from swiftlike.cli.app import perform
from swiftlike.core.errors import UserError

from .runs import write_rows

MODEL = ["--model_type", "tiny-llama", "--seed", 7, "--max_new_tokens", 14]
NOISE = ["--temperature", 1, "--top_p", 1, "--top_k", 0, "--prompt_min_length", 1]
POOLS = ["--n_instructions_to_generate_total", 22, "--streams", 4, "--mini_group_size", 3]
USUAL = [*MODEL, *NOISE, *POOLS, "--n_machine_instructions", 2]
Rows = list[dict[str, Any]]


def swiftlike(*words: Any) -> int:
    return perform("self_instruct", [str(word) for word in words])


def start(*words: Any) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "swiftlike", "self_instruct", *map(str, words)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ))


def finished(process: subprocess.Popen[str]) -> str:
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 0, text
    return text


def get(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs, two for every prompt."""
    rows = [
        {"prompt": f"{what} {number}", "chosen": f"{answer}.", "rejected": "No."}
        for what in ("Tell a story of the sea and boat", "Bake a bread of flour and salt")
        for number in range(10, 16)
        for answer in ("Yes", "Maybe")
    ]
    return write_rows(tmp_path_factory.mktemp("seeds") / "pairs.jsonl", rows)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, seeds: Path) -> Path:
    """New prompts of one undisturbed run."""
    output = tmp_path_factory.mktemp("made") / "prompts.jsonl"
    assert swiftlike(seeds, *USUAL, "--output", output) == 0
    return output


def test_rows_are_new_prompts_of_every_pool(made: Path, seeds: Path) -> None:
    rows = get(made)
    assert [row["metadata"]["cluster_id"] for row in rows] == [0] * 6 + [1] * 6 + [2] * 5 + [3] * 5
    assert all(row["messages"] == [{"role": "user", "content": row["prompt"]}] for row in rows)
    assert len({row["prompt"] for row in rows} - {row["prompt"] for row in get(seeds)}) == len(rows)
    assert [path.name for path in made.parent.iterdir()] == [made.name]  # nothing is left behind


def test_the_same_again_whatever_is_computed_together(tmp_path: Path, seeds: Path, made: Path) -> None:
    again = tmp_path / "again.jsonl"
    assert swiftlike(seeds, *USUAL, "--output", again, "--max_batch_size", 2) == 0
    assert again.read_bytes() == made.read_bytes()
    with pytest.raises(UserError, match="exists already"):
        swiftlike(seeds, *USUAL, "--output", again)


@pytest.mark.parametrize("flags", [["--seed", 8], ["--seed", 7, "--iteration", 1]], ids=str)
def test_other_seeds_and_iterations_make_other_prompts(tmp_path: Path, seeds: Path, made: Path, flags: list) -> None:
    output = tmp_path / "other.jsonl"
    model = ["--model_type", "tiny-llama", "--max_new_tokens", 14, *USUAL[6:]]
    assert swiftlike(seeds, *model, *(["--seed", 7] if "--seed" not in flags else []), *flags, "--output", output) == 0
    assert not {row["prompt"] for row in get(output)} & {row["prompt"] for row in get(made)}


@pytest.mark.parametrize("shards", [2, 4, 6])
def test_shards_are_the_whole(tmp_path: Path, seeds: Path, made: Path, shards: int) -> None:
    """With six there are two without any work."""
    output = tmp_path / "prompts.jsonl"
    for shard in reversed(range(shards)):
        assert not output.exists()
        assert swiftlike(seeds, *USUAL, "--output", output, "--shard", shard, "--num_shards", shards) == 0
    assert output.read_bytes() == made.read_bytes()
    assert swiftlike(seeds, *USUAL, "--output", output, "--shard", 0, "--num_shards", shards) == 0  # there already


def test_what_is_made_can_be_asked(tmp_path: Path, made: Path) -> None:
    flags = ["--model_type", "tiny-llama", "--max_new_tokens", "4", "--num_return_sequences", "2", "--seed", "1"]
    words = [str(made), *flags, "--output_format", "aipo", "--output", str(tmp_path / "answers.jsonl")]
    assert perform("sample", words) == 0
    assert [row["prompt"] for row in get(tmp_path / "answers.jsonl")] == [row["prompt"] for row in get(made)]


def test_aipos_own_parser(tmp_path: Path, seeds: Path) -> None:
    output = tmp_path / "prompts.jsonl"
    assert swiftlike(seeds, *USUAL, "--prompt_parser", "v1", "--output", output) == 0
    texts = [row["prompt"] for row in get(output)]
    assert texts == [text.capitalize() for text in texts]
    assert len(texts) == 22


def test_a_model_that_says_too_little(tmp_path: Path, seeds: Path) -> None:
    """Greedily, and shown the same one prompt each time, it says one thing in every pool; too long ones are none."""
    output, one = tmp_path / "few.jsonl", write_rows(tmp_path / "one.jsonl", get(seeds)[:1])
    flags = ["--prompt_min_length", 1, "--temperature", 0]
    text = finished(start(one, *MODEL, *POOLS, *flags, "--output", output))
    assert len(get(output)) == 1
    assert "the model came up with 1 of 22 prompts" in text
    none = tmp_path / "none.jsonl"
    assert (
        swiftlike(seeds, *USUAL[:-2], "--additional_filtering", "false", "--prompt_max_length", 1, "--output", none)
        == 1
    )
    assert not none.exists()


def test_similar_ones_are_left_out_over_all_pools(tmp_path: Path, seeds: Path) -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=False)
    output = tmp_path / "prompts.jsonl"
    assert swiftlike(seeds, *USUAL, "--dedup_rouge", 0.05, "--output", output) == 0
    texts = [row["prompt"] for row in get(output)]
    known = [row["prompt"] for row in get(seeds)]
    assert texts
    for text in texts:
        assert all(scorer.score(other, text)["rougeL"].fmeasure <= 0.05 for other in known)
        known.append(text)


@pytest.mark.slow
def test_clusters_on_two_machines_at_once(tmp_path: Path, seeds: Path) -> None:
    pytest.importorskip("sklearn")
    flags = ["--clustering", "true", "--n_clusters", 3, "--prompts_per_cluster", 4, "--mini_group_size", 3]
    words = [seeds, *MODEL, *NOISE, *flags]
    alone, output = tmp_path / "alone.jsonl", tmp_path / "prompts.jsonl"
    shards = [start(*words, "--output", output, "--shard", shard, "--num_shards", 2) for shard in range(2)]
    assert swiftlike(*words, "--output", alone) == 0
    for shard in shards:
        finished(shard)
    assert output.read_bytes() == alone.read_bytes()
    assert [row["metadata"]["cluster_id"] for row in get(alone)] == [0] * 4 + [1] * 4 + [2] * 4
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["alone.jsonl", "prompts.jsonl"]


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path: Path, seeds: Path, made: Path) -> None:
    """Killed when some rounds are in the journal, and again when there are more, one of them half written."""
    output, part = tmp_path / "prompts.jsonl", tmp_path / "prompts.jsonl.part"
    words = [seeds, *USUAL, "--output", output]
    for lines in (2, 5):
        killed = start(*words, "--max_batch_size", 1)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and killed.poll() is None:
            if part.exists() and part.read_bytes().count(b"\n") >= lines:
                break
            time.sleep(0.005)
        killed.send_signal(signal.SIGKILL)
        killed.wait(60)
        assert part.read_bytes().count(b"\n") >= lines
        assert not output.exists()
        with part.open("ab") as file:
            file.write(b'{"row": 1, "dig')
    with pytest.raises(UserError, match="prompt_parser: 'v2' then, 'v1' now"):
        swiftlike(*words, "--prompt_parser", "v1")
    journal = part.read_bytes()
    finished(start(*words))
    assert output.read_bytes() == made.read_bytes()
    assert not part.exists()
    part.write_bytes(journal)  # killed when the output was there and the journal was not yet gone
    assert swiftlike(*words) == 0
    assert output.read_bytes() == made.read_bytes()
    assert not part.exists()
