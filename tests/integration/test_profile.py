"""`--profile N`: the trace and the table that a user gets, and that watching changes no number."""

import gzip
import json
from pathlib import Path

import pytest

from .runs import Ran, train

FLAGS = {
    "rlhf_type": "dpo", "model_type": "tiny-llama", "dataset": "demo#32", "learning_rate": 3e-3, "rpo_alpha": 0,
    "dataloader_num_workers": 0, "ref_logps": "live", "max_steps": 4,
}  # fmt: skip


def ran(folder: Path, **more: object) -> Ran:
    return train("rlhf", folder, **FLAGS | more)


def test_a_profile_names_every_part_of_a_step(tmp_path: Path) -> None:
    watched, plain = ran(tmp_path / "watched", profile=2), ran(tmp_path / "plain")
    assert watched.losses == plain.losses
    assert not (plain.folder / "profile").exists()
    first, *lines = (watched.folder / "profile" / "rank0.txt").read_text().splitlines()
    assert first.startswith("profile of 2 steps: ")
    parts = {line[:50].strip(): float(line[50:61]) for line in lines if line.rstrip().endswith("%")}
    assert list(parts) == ["loading", "policy forward", "reference", "objective", "optimiser", "backward and the rest"]
    assert all(seconds > 0 for seconds in parts.values())
    total = float(first.split()[4])
    assert sum(parts.values()) == pytest.approx(total, abs=1e-3)
    assert parts["policy forward"] + parts["backward and the rest"] > 0.3 * total
    with gzip.open(watched.folder / "profile" / "rank0.json.gz", "rt") as file:
        names = [event.get("name") for event in json.load(file)["traceEvents"]]
    assert names.count("swiftlike reference") == 2
    assert names.count("swiftlike loading") == 2


def test_a_run_that_is_shorter_is_profiled_as_far_as_it_goes(tmp_path: Path) -> None:
    found = ran(tmp_path, profile=10)
    assert (found.folder / "profile" / "rank0.txt").read_text().startswith("profile of 3 steps: ")
    assert not (ran(tmp_path / "one", profile=3, max_steps=1).folder / "profile").exists()
