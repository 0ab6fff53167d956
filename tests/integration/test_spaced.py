"""Checkpoints that are spaced over a run, and how far each of them is from where it started."""

from __future__ import annotations

import json
import math
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from swiftlike.cli.app import perform
from swiftlike.cli.commands import load
from swiftlike.cli.layers import build_run
from swiftlike.core.errors import UserError

from .runs import Ran, train, words, write_rows

FLAGS: dict[str, Any] = {
    **{"rlhf_type": "exo", "loss_type": "exo-rw", "model_type": "tiny-llama", "learning_rate": 1e-2, "batch_size": 2},
    **{"max_steps": 7, "save_strategy": "steps", "num_save_checkpoint": 3},
}
TEMPERATURE = 0.8


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts with two or four answers that have rewards."""
    rows = [
        {
            "prompt": f"What about number {number}?",
            "completions": [f"It is {k} times {number}." + " So be it." * (k * number % 3) for k in range(size)],
            "rewards": [(k * 7 + number) % 4 - 1.5 for k in range(size)],
        }
        for number in range(8)
        for size in [2 + number % 2 * 2]
    ]
    return write_rows(tmp_path_factory.mktemp("rows") / "scored.jsonl", rows)


@pytest.fixture(scope="module")
def exo(scored: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return train("rlhf", tmp_path_factory.mktemp("exo"), dataset=scored, **FLAGS)


def names(folder: Path) -> dict[str, str]:
    """ckptK -> what the link says."""
    return {one.name: str(one.readlink()) for one in sorted(folder.glob("ckpt*"))}


def measured(place: Path, *asked: Any) -> dict[str, Any]:
    assert perform("eval", ["--eval_type", "kl", "--output_dir", str(place), *map(str, asked)]) == 0
    found: dict[str, Any] = json.loads((place / "kl.json").read_text())
    return found


# -- checkpoints ------------------------------------------------------------------------------------------------------


def test_checkpoints_are_spaced_and_named(exo: Ran) -> None:
    assert names(exo.folder) == {"ckpt1": "checkpoint-2", "ckpt2": "checkpoint-4", "ckpt3": "checkpoint-7"}
    steps = {int(one.name.rpartition("-")[2]) for one in exo.folder.glob("checkpoint-*")}
    assert steps == {2, 4, 7}


def test_names_are_made_anew_when_a_run_goes_on(exo: Ran, scored: Path, tmp_path: Path) -> None:
    flags = FLAGS | {"dataset": scored, "resume_from_checkpoint": exo.folder / "ckpt2"}
    elsewhere = train("rlhf", tmp_path / "elsewhere", **flags).folder
    assert names(elsewhere)["ckpt3"] == "checkpoint-7"
    for k, step in ((1, 2), (2, 4)):
        assert (elsewhere / f"ckpt{k}").resolve() == (exo.folder / f"checkpoint-{step}").resolve()
        assert not (elsewhere / f"ckpt{k}").readlink().is_absolute()

    copy = shutil.copytree(exo.folder, tmp_path / "copy", symlinks=True)
    (copy / "ckpt1").unlink()
    (copy / "ckpt9").symlink_to("checkpoint-7")
    from swiftlike.pipelines.train import run

    flags |= {"resume_from_checkpoint": copy / "checkpoint-7", "output_dir": copy, "add_version": False}
    assert run(build_run(load("rlhf"), words("rlhf", flags)[1:], {})[0]) is None  # nothing is left to train
    assert names(copy) == names(exo.folder)


def test_more_checkpoints_than_steps_are_refused_before_loading(scored: Path, tmp_path: Path) -> None:
    flags = FLAGS | {"dataset": scored, "max_steps": -1, "batch_size": 4, "num_save_checkpoint": 3}
    with pytest.raises(UserError, match=r"num_save_checkpoint 3: this run has 2 optimiser steps"):
        train("rlhf", tmp_path, **flags)
    assert list(tmp_path.iterdir()) == []
    ran = train("rlhf", tmp_path, **flags | {"num_save_checkpoint": 2})
    assert names(ran.folder) == {"ckpt1": "checkpoint-1", "ckpt2": "checkpoint-2"}


# -- using them -------------------------------------------------------------------------------------------------------


def test_a_named_checkpoint_samples_is_measured_and_exported(exo: Ran, scored: Path, tmp_path: Path) -> None:
    ckpt = exo.folder / "ckpt2"
    run, _ = build_run(load("sample"), ["--ckpt_dir", str(ckpt), str(scored), "--output", "x.jsonl"], {})
    assert (run.model.model_type, run.origin["model_type"]) == ("tiny-llama", str(ckpt / "args.json"))
    said = tmp_path / "said.jsonl"
    asked = [scored, "--ckpt_dir", ckpt, "--output", said, "--num_return_sequences", 3, "--max_new_tokens", 6]
    assert perform("sample", [*map(str, asked), "--temperature", str(TEMPERATURE)]) == 0
    found = measured(tmp_path, said, "--ckpt_dir", ckpt, "--temperature", TEMPERATURE)
    assert (found["rows"], found["answers"], found["bad_rows"]) == (8, 24, {})
    assert "mean_reward" not in found
    assert 0 < found["kl"] < 60
    assert 0 < found["mean_tokens"] <= 7 + 6  # text may be cut into other tokens than were sampled

    merged = tmp_path / "merged"
    words = ["--ckpt_dir", str(ckpt), "--merge_lora", "true", "--output_dir", str(merged)]
    assert not perform("export", words)
    back = measured(tmp_path, said, "--ckpt_dir", merged, "--ref_model", ckpt)  # the adapter goes on its own base
    assert back["kl"] == pytest.approx(0, abs=1e-3)
    assert back["reference"] == str(ckpt)
    with pytest.raises(UserError, match="--ref_model"):
        measured(tmp_path, said, "--ckpt_dir", merged)


# -- the distance -----------------------------------------------------------------------------------------------------


def test_a_model_is_no_distance_from_itself(exo: Ran, scored: Path, tmp_path: Path) -> None:
    ckpt = exo.folder / "ckpt3"
    for more in ([], ["--temperature", 0.8, "--eval_batch_size", 3]):
        found = measured(tmp_path, scored, "--ckpt_dir", ckpt, "--ref_model", exo.folder / "checkpoint-7", *more)
        assert (found["kl"], found["kl_stderr"]) == (0.0, 0.0)


@pytest.mark.parametrize(("temperature", "batch"), [(TEMPERATURE, 3), (None, 8)])
def test_the_distance_is_that_of_transformers(
    temperature: float | None, batch: int, exo: Ran, scored: Path, tmp_path: Path
) -> None:
    more = [] if temperature is None else ["--temperature", temperature]
    ckpt, other = exo.folder / "ckpt2", exo.folder / "ckpt1"
    found = measured(tmp_path, scored, "--ckpt_dir", ckpt, "--ref_model", other, "--eval_batch_size", batch, *more)
    policy, reference = (plain(one, scored, temperature or 1.0) for one in (ckpt, other))
    ratios = [mine - theirs for (mine, _), (theirs, _) in zip(policy, reference, strict=True)]
    assert found["kl"] == pytest.approx(statistics.fmean(ratios), abs=1e-4)
    assert found["kl_stderr"] == pytest.approx(statistics.stdev(ratios) / math.sqrt(len(ratios)), abs=1e-4)
    assert found["mean_tokens"] == statistics.fmean(count for _, count in policy)
    rewards = [one for line in scored.read_text().splitlines() for one in json.loads(line)["rewards"]]
    assert found["mean_reward"] == pytest.approx(statistics.fmean(rewards))
    assert found["mean_reward_stderr"] == pytest.approx(statistics.stdev(rewards) / math.sqrt(len(rewards)))
    assert (found["answers"], found["temperature"]) == (24, temperature or 1)
    assert abs(found["kl"]) > 0.01


def plain(folder: Path, data: Path, temperature: float) -> list[tuple[float, int]]:
    """(log-probability, tokens) of every answer, each computed by itself by transformers and peft."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from swiftlike.datasets_registry.shapes import to_row
    from swiftlike.pipelines.prepare import encoder
    from swiftlike.pipelines.serving import open_model

    run, _ = build_run(load("eval"), ["--eval_type", "preference", "--ckpt_dir", str(folder), str(data)], {})
    opened = open_model(run)
    encode = encoder(opened.run, opened.checkpoint, every=False)
    model = AutoModelForCausalLM.from_pretrained(opened.model_folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(folder)).eval()
    found = []
    for line in data.read_text().splitlines():
        group = encode(to_row(json.loads(line))[0])
        for one in group.completions:
            ids = torch.tensor([[*group.prompt.ids.tolist(), *one.ids.tolist()]])
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0] / temperature
            every = logits[:-1].log_softmax(-1).gather(1, ids[0, 1:, None]).squeeze(1)
            counted = torch.tensor(one.counted.tolist())
            found.append((every[-len(one.ids) :][counted].sum().item(), int(counted.sum())))
    return found


def test_rows_that_cannot_be_measured_are_counted(exo: Ran, tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "completions": ["b"], "rewards": [1.0]},
        {"prompt": "a", "completions": ["b", "c"], "rewards": [1.0]},
        {"prompt": "a", "completions": ["b"], "rewards": ["high"]},
        {"prompt": "a"},
        {"prompt": "a", "completions": ["word " * 5000]},
        {"query": "a", "response": "b"},
    ]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    found = measured(tmp_path, data, "--ckpt_dir", exo.folder / "ckpt1")
    assert (found["rows"], found["answers"], found["mean_reward"]) == (2, 2, 1.0)
    assert sum(found["bad_rows"].values()) == 4
    assert {"scores do not match answers", "scores are not numbers", "longer than max_length"} < found[
        "bad_rows"
    ].keys()
    with pytest.raises(UserError, match="rows cannot be used"):
        measured(tmp_path, data, "--ckpt_dir", exo.folder / "ckpt1", "--on_bad_row", "error")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--temperature", "0"], "greedy answers have no distribution"),
        (["--infer_backend", "vllm"], "computed by pt"),
        (["--val_dataset", "x.jsonl"], "--val_dataset goes with --eval_type reward or preference"),
        (["--top_p", "0.9"], "--top_p goes with"),
        (["--beta", "0.2"], "--beta goes with --eval_type preference"),
    ],
)
def test_flags_that_do_not_belong(more: list[str], said: str, exo: Ran, scored: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        measured(tmp_path, scored, "--ckpt_dir", exo.folder / "ckpt1", *more)
    assert said in str(caught.value)
