"""What continuing a run takes over, what it refuses, and references that an adapter's start would spoil."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import swiftlike
from swiftlike.cli.commands import load
from swiftlike.cli.layers import build_run
from swiftlike.core.errors import UserError
from swiftlike.models.tiny import cached
from swiftlike.pipelines.train import run

from .runs import read, train

FLAGS = {"model": "tiny-llama", "dataset": "demo#16", "batch_size": "4", "learning_rate": "1e-2", "lora_alpha": "64"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory):
    """Four steps, saved after every second one."""
    out = tmp_path_factory.mktemp("whole")
    return train("rlhf", out, **FLAGS, beta="0.3", save_strategy="steps", save_steps="2", max_steps="4")


def resumed(out: Path, checkpoint: Path, *more: str):
    """`swiftlike rlhf --resume_from_checkpoint DIR` and nothing else."""
    argv = ["--resume_from_checkpoint", str(checkpoint), "--output_dir", str(out), *more]
    return run(build_run(load("rlhf"), argv, {})[0])


def test_a_checkpoint_alone_continues_its_run(whole, tmp_path: Path) -> None:
    done = resumed(tmp_path, whole.folder / "checkpoint-2")
    mine = load_file(done.folder / "checkpoint-4" / "adapter_model.safetensors")
    theirs = load_file(whole.folder / "checkpoint-4" / "adapter_model.safetensors")
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("words", [("--lora_alpha", "32"), ("--learning_rate", "1"), ("--beta", "0.1")])
def test_other_settings_are_refused(whole, tmp_path: Path, words: tuple[str, str]) -> None:
    with pytest.raises(UserError, match=words[0]):
        resumed(tmp_path, whole.folder / "checkpoint-2", *words)


def test_another_objective_is_refused(whole, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="simpo"):
        resumed(tmp_path, whole.folder / "checkpoint-2", "--rlhf_type", "simpo")


# -- the same data and code, or said -----------------------------------------------------------------------------------


@pytest.fixture
def named(tmp_path: Path) -> tuple[Path, Path]:
    """The checkpoint of a run with a plugin, and that plugin."""
    plugin = tmp_path / "plugin.py"
    plugin.write_text("ANSWER = 42\n")
    ran = train("rlhf", tmp_path / "ran", **FLAGS, save_strategy="steps", save_steps="1", max_steps="2", plugin=plugin)
    return ran.folder / "checkpoint-1", plugin


def test_other_code_is_named_and_refused(named: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, plugin = named
    mark = checkpoint / "swiftlike.json"
    facts = json.loads(mark.read_text())
    assert facts["swiftlike"] == swiftlike.__version__
    plugin.write_text("ANSWER = 43\n")
    mark.write_text(json.dumps(facts | {"swiftlike": "0.0.1"}))
    with pytest.raises(UserError, match="cannot be continued by this run") as caught:
        resumed(tmp_path / "more", checkpoint)
    assert list(caught.value.problems) == [
        f"swiftlike 0.0.1 wrote it, this is {swiftlike.__version__}",
        "--plugin plugin.py: its content has changed since the checkpoint was written",
    ]
    assert "--resume_anyway true" in caught.value.hint
    assert not (tmp_path / "more").exists()


def test_it_goes_on_anyway_and_says_what_differs(
    named: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint, plugin = named
    plugin.write_text("ANSWER = 43\n")
    words = ["--resume_anyway", "true", "--dataset", "demo#12", "--learning_rate", "1e-3"]
    done = resumed(tmp_path / "more", checkpoint, *words)
    assert [line["step"] for line in read(done.folder).lines] == ["2/2"]
    said = [record.getMessage() for record in caplog.records if "--resume_anyway: " in record.getMessage()]
    assert len(said) == 3
    for line, words in zip(said, ("--learning_rate: 0.01", "other data", "plugin.py: its content"), strict=True):
        assert words in line


def test_another_shape_cannot_go_on_anyway(whole, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--lora_rank: 8 in the checkpoint, now 4") as caught:
        resumed(tmp_path, whole.folder / "checkpoint-2", "--lora_rank", "4", "--resume_anyway", "true")
    assert "--resume_anyway" not in caught.value.hint


def test_a_finished_run_is_not_trained_further(whole, tmp_path: Path) -> None:
    assert resumed(tmp_path, whole.folder / "checkpoint-4") is None
    assert not list(tmp_path.iterdir())


def test_weights_alone_are_not_continued(tmp_path: Path) -> None:
    flags = FLAGS | {"save_only_model": "true", "save_strategy": "steps", "max_steps": "1"}
    first = train("rlhf", tmp_path / "first", **flags)
    with pytest.raises(UserError, match="--resume_only_model"):
        resumed(tmp_path / "second", first.checkpoint)


@pytest.mark.parametrize("flags", [{"init_lora_weights": "pissa"}, {"lora_bias": "all"}])
def test_the_reference_is_the_model_that_training_started_from(tmp_path: Path, flags: dict[str, str]) -> None:
    usual = FLAGS | {"max_steps": "3", "logging_steps": "1", "rpo_alpha": "0"}
    kept = train("rlhf", tmp_path / "kept", **usual, **flags)
    live = train("rlhf", tmp_path / "live", **usual, **flags, ref_logps="live")
    plain = train("rlhf", tmp_path / "plain", **usual)
    for ran in (kept, live, plain):
        assert ran.column("rewards/margins")[0] == pytest.approx(0, abs=1e-5)
        assert ran.losses[0] == pytest.approx(0.693147, abs=1e-5)
    assert kept.losses == pytest.approx(live.losses, abs=1e-5)


def test_full_training_in_half_precision_moves_nearly_every_weight(tmp_path: Path) -> None:
    flags = FLAGS | {"sft_type": "full", "torch_dtype": "bfloat16", "learning_rate": "1e-5", "max_steps": "2"}
    flags.pop("lora_alpha")
    ran = train("rlhf", tmp_path, **flags, save_strategy="steps")
    before = load_file(cached("tiny-llama") / "model.safetensors")
    after = load_file(ran.checkpoint / "model.safetensors")
    moved = sum(int((after[name].float() != before[name].float()).sum()) for name in before if "layers" in name)
    assert moved > 0.9 * sum(before[name].numel() for name in before if "layers" in name)
