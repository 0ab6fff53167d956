"""AIPO's pipeline, killed twenty times: what it leaves is what an undisturbed run leaves, byte for byte."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.e2e.conftest import Installed
from tests.e2e.recipes import iterate

KILLS = 20
WORDS = (
    *("demo_aipo", "max_iter=0", "sft.dataset=demo-words#320", "sft.num_train_epochs=3"),
    *("self_instruct.n_instructions_to_generate_total=24", "self_instruct.mini_group_size=4"),
    *("generate.num_return_sequences=4", "eval_prompts=demo-words:test#8"),
)
_ROUND = (*("self_instruct", "generate_responses", "pair_rm", "filter", "evaluation_answers", "evaluation_rewards"),)
ROWS = ("start_answers", "start_rewards", *(f"iter0/{stage}" for stage in _ROUND), "report")
FILES = (".jsonl", ".csv", ".md")


def rows_of(root: Path) -> dict[str, bytes]:
    """The data that a run has made, by name."""
    found = [path for stage in ROWS for path in sorted((root / stage).iterdir()) if path.suffix in FILES]
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


def killed(swiftlike: Installed, root: Path, after: float) -> bool:
    """Start the run, and kill it after so many seconds. Whether it was still there."""
    argv = [str(swiftlike.path), "iterate", *WORDS, f"output_dir={root}"]
    with subprocess.Popen(argv, env=swiftlike.env, cwd=swiftlike.folder, stderr=subprocess.DEVNULL) as process:
        time.sleep(after)
        process.kill()
        return process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_killed_twenty_times(swiftlike: Installed, tmp_path: Path) -> None:
    begun = time.monotonic()
    done = iterate(swiftlike, *WORDS, f"output_dir={tmp_path / 'plain'}")
    assert done.code == 0, done.err
    stage = (time.monotonic() - begun) / done.err.count(": done in")
    draw = random.Random(20)
    hits = sum(killed(swiftlike, tmp_path / "killed", draw.uniform(0.1, 2.5) * stage) for _ in range(KILLS))
    assert hits == KILLS
    done = iterate(swiftlike, *WORDS, f"output_dir={tmp_path / 'killed'}")
    assert done.code == 0, done.err
    plain, other = rows_of(tmp_path / "plain"), rows_of(tmp_path / "killed")
    assert plain.keys() == other.keys()
    assert {name for name in plain if plain[name] != other[name]} == set()
    for model in ("start", "iter0/dpo"):
        weights = [load_file(tmp_path / run / model / "model.safetensors") for run in ("plain", "killed")]
        assert weights[0].keys() == weights[1].keys()
        assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    assert not [*(tmp_path / "killed").glob("backup_*")]
