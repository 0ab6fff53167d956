"""AIPO's pipeline, killed twenty times: what it leaves is what an undisturbed run leaves, byte for byte."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

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
    """Start the run, and kill it after so many seconds. False when it was done before."""
    argv = [str(swiftlike.path), "iterate", *WORDS, f"output_dir={root}"]
    with subprocess.Popen(argv, env=swiftlike.env, cwd=swiftlike.folder, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.wait(after) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait() == -signal.SIGKILL
    return False


def weights(root: Path) -> dict[str, bytes]:
    """The models that a run has made."""
    return {name: (root / name / "model.safetensors").read_bytes() for name in ("start", "iter0/dpo")}


@pytest.mark.slow
def test_killed_twenty_times(swiftlike: Installed, tmp_path: Path) -> None:
    begun = time.monotonic()
    done = iterate(swiftlike, *WORDS, f"output_dir={tmp_path / 'plain'}")
    assert done.code == 0, done.err
    stage = (time.monotonic() - begun) / done.err.count(": done in")
    draw, kills, roots = random.Random(20), 0, [tmp_path / "killed0"]
    while kills < KILLS:
        if killed(swiftlike, roots[-1], draw.uniform(0.1, 2.0) * stage):
            kills += 1
        else:  # the machine is faster than it was: on to another one
            roots.append(tmp_path / f"killed{len(roots)}")
    done = iterate(swiftlike, *WORDS, f"output_dir={roots[-1]}")
    assert done.code == 0, done.err
    expected = rows_of(tmp_path / "plain")
    assert len(expected) >= len(ROWS)
    for root in roots:
        found = rows_of(root)
        assert found.keys() == expected.keys()
        assert {name for name in found if found[name] != expected[name]} == set()
        assert weights(root) == weights(tmp_path / "plain")
        assert not [*root.glob("backup_*")]
