"""Real runs that are given keys, and every byte that they leave behind or say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .judges import judge
from .runs import words

CANARY = "canary-4f81b7c2d9"
NAMES = ("HF_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "SWANLAB_API_KEY", "AWS_SECRET_ACCESS_KEY")


def leaks(*folders: Path) -> list[str]:
    """Files below that hold the canary, packed or not."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert files
    return [str(path) for path in files if CANARY.encode() in path.read_bytes()]


def run(argv: list[str], cache: Path) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SWIFTLIKE_", "TENSORBOARD_"))}
    env |= {name: f"{CANARY}-{name}" for name in NAMES} | {"SWIFTLIKE_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "swiftlike", *argv], env=env, capture_output=True, timeout=900)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said[-3000:]
    return said


@pytest.mark.slow
def test_a_training_run_leaves_no_token_anywhere(tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = {
        "rlhf_type": "dpo", "model_type": "tiny-llama", "dataset": "demo#16", "max_steps": 2, "save_strategy": "steps",
        "save_steps": 2, "report_to": "tensorboard", "output_dir": out, "hub_token": f"{CANARY}-flag",
        "run_name": f"https://me:{CANARY}@host.invalid/x",
    }  # fmt: skip
    said = run(words("rlhf", flags), tmp_path / "cache")
    assert CANARY not in said
    names = {path.name for path in out.rglob("*")}
    assert {"args.json", "logging.jsonl", "training_args.bin", "checkpoint-2"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not leaks(out, tmp_path / "cache")


@pytest.fixture
def echo() -> Iterator[tuple[str, list[str]]]:
    """The address of a judge that repeats the key that it was sent, in replies and in errors; and these keys."""
    keys: list[str] = []

    def says(asked: str, key: str) -> tuple[int, str]:
        keys.append(key)
        if "breaks" in asked:
            return 400, f"bad key {key}"
        return 200, f"no mark for {key}" if "rubbish" in asked else f"{key} [[7]]"

    with judge(says) as url:
        yield url, keys


RECIPE = """\
output_dir: OUT
stages:
  judge:
    command: score
    output: scored.jsonl
    args: {dataset: ROWS, scorer: judge, judge_model: j, judge_url: "URL", judge_retries: 0, judge_timeout: 30,
           judge_cache: CACHE, judge_api_key: KEY}
"""


@pytest.mark.slow
def test_a_judge_that_repeats_its_key_and_the_record_of_a_pipeline(echo: tuple[str, list[str]], tmp_path: Path) -> None:
    url, keys = echo
    rows = [{"prompt": f"q{k}", "completions": [answer, "ok"]} for k, answer in enumerate(["a", "rubbish", "breaks"])]
    given = tmp_path / "given"
    given.mkdir()
    (given / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = RECIPE.replace("OUT", str(tmp_path / "out")).replace("ROWS", str(given / "rows.jsonl")).replace("URL", url)
    text = text.replace("CACHE", str(tmp_path / "out/replies.sqlite")).replace("KEY", f"{CANARY}-judge")
    (given / "judged.yaml").write_text(text)
    said = run(["iterate", str(given / "judged.yaml")], tmp_path / "cache")
    assert set(keys) == {f"Bearer {CANARY}-judge"}
    assert CANARY not in said
    errors = (tmp_path / "out/judge/scored.errors.jsonl").read_text()
    assert "bad key" in errors
    assert "(hidden)" in errors
    assert not leaks(tmp_path / "out", tmp_path / "cache")
