"""One recipe on several machines (processes that share a folder): the same rows, and a lost one is started again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from swiftlike.core.files import read_jsonl

from .runs import free_port

RECIPE = """
output_dir: OUT
dataset: demo-words:prompts#12
stages:
  sample:
    command: sample
    args: {model_type: tiny-llama, template: plain, dataset: "${dataset}", num_return_sequences: 3, temperature: 1.0,
           max_new_tokens: 6, infer_backend: pt, output_format: aipo}
  score: {command: score, output: pairs.jsonl, args: {dataset: "${out:sample}", write: pairs, regex: "e.*e"}}
  train:
    command: rlhf
    args: {rlhf_type: dpo, model_type: tiny-llama, template: plain, dataset: "${out:score}", max_steps: 4,
           save_steps: 1, report_to: none, dataset_test_ratio: 0, eval_strategy: "no", batch_size: 2,
           gradient_accumulation_steps: 1}
"""


def recipe(folder: Path, name: str) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(RECIPE.replace("OUT", str(folder / name)), encoding="utf-8")
    return path


def start(path: Path, *words: str, **env: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "swiftlike", "iterate", str(path), *words]
    env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | env
    return subprocess.Popen(command, env=env, text=True, stderr=subprocess.PIPE)


def machine(path: Path, rank: int, count: int, port: int) -> subprocess.Popen[str]:
    return start(path, DIST_NNODES=str(count), DIST_NODE_RANK=str(rank), DIST_MASTER_PORT=str(port))


def ended(*processes: subprocess.Popen[str]) -> str:
    said = [process.communicate(timeout=900)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(said)
    return said[0]


def rows(folder: Path, name: str) -> list[str]:
    return [json.dumps(row) for _, row in read_jsonl(folder / name)]


@pytest.mark.slow
def test_two_machines_one_of_them_lost(tmp_path: Path) -> None:
    ended(start(recipe(tmp_path, "one")))
    ended(start(recipe(tmp_path, "four"), "--shards", "4", "--only", "sample", "score"))
    two, port = recipe(tmp_path, "two"), free_port()
    first, second = machine(two, 0, 2, port), machine(two, 1, 2, port)
    while not (tmp_path / "two/stages/sample.log.jsonl").exists():  # the second one has begun its piece, or waits
        time.sleep(0.1)
    time.sleep(1)
    second.kill()
    second.communicate()
    ended(first, machine(two, 1, 2, port))
    for name in ("sample/responses.jsonl", "score/pairs.jsonl"):
        one = rows(tmp_path / "one", name)
        assert len(one) > 3
        assert rows(tmp_path / "four", name) == rows(tmp_path / "two", name) == one
    assert (tmp_path / "two/train/checkpoint-4/swiftlike.json").is_file()
    stopped(tmp_path / "two", 3)
    said = ended(*(machine(two, rank, 2, port) for rank in range(2)))
    assert "train: was stopped" in said
    assert (tmp_path / "two/train/checkpoint-4/swiftlike.json").is_file()
    words = json.loads((tmp_path / "two/stages/train.json").read_text())["words"]
    assert words[-1].endswith("train/checkpoint-3")


def stopped(root: Path, step: int) -> None:
    """As if the training had been killed after that step's checkpoint."""
    mark = root / "stages/train.json"
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {"state": "running"}))
    shutil.rmtree(root / f"train/checkpoint-{step + 1}")
