"""A pickle is a program. None that comes with a model, an adapter or a checkpoint is ever run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import families
import pytest
import torch
from safetensors.torch import load_file

from swiftlike.args.lora import TunerArgs
from swiftlike.args.model import ModelArgs
from swiftlike.cli.commands import load as load_command
from swiftlike.cli.layers import build_run
from swiftlike.core.errors import UserError
from swiftlike.losses.beta_dpo import State
from swiftlike.models.load import load_model, locate
from swiftlike.models.reward_files import load_reward_model
from swiftlike.models.tuning import add_lora
from swiftlike.pipelines.export.layouts import to_peft
from swiftlike.pipelines.serving import open_model
from swiftlike.trainers.checkpoint import read_state


class Evil:
    """Leaves a mark where it is unpickled in full."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    families.save("llama", root / "llama")
    return root


@pytest.fixture
def pickled(folders: Path, tmp_path: Path) -> Path:
    """A model whose weights are a pickle."""
    folder = tmp_path / "pickled"
    shutil.copytree(folders / "llama", folder)
    (weights,) = folder.glob("*.safetensors")
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    return folder


def test_a_model_of_pickles_is_refused_and_read_when_asked_for(folders: Path, pickled: Path) -> None:
    with pytest.raises(UserError, match=r"a pickle \(pytorch_model.bin\)(.|\n)*--use_safetensors false"):
        locate(ModelArgs(model=str(pickled)))
    assert locate(ModelArgs(model=str(pickled)), weights=False).folder == pickled
    model = load_model(locate(ModelArgs(model=str(pickled), use_safetensors=False)))
    for name, weight in load_model(locate(ModelArgs(model=str(folders / "llama")))).state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)


def test_what_is_read_is_never_run(pickled: Path, tmp_path: Path) -> None:
    torch.save({"a": Evil(tmp_path / "ran")}, pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match="holds more than numbers"):
        load_model(locate(ModelArgs(model=str(pickled), use_safetensors=False)))
    assert not (tmp_path / "ran").exists()
    torch.load(pickled / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "ran").exists(), "the pickle of this test is harmless: it shows nothing"


def test_safetensors_beside_a_pickle_are_taken(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "llama", tmp_path / "both")
    torch.save({"a": Evil(tmp_path / "ran")}, tmp_path / "both" / "pytorch_model.bin")
    load_model(locate(ModelArgs(model=str(tmp_path / "both"))))
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter whose weights are a pickle that runs something."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2}))
    torch.save({"a": Evil(tmp_path / "ran")}, folder / "adapter_model.bin")
    return folder


def test_an_adapter_of_pickles_is_refused(folders: Path, adapter: Path, tmp_path: Path) -> None:
    source = locate(ModelArgs(model=str(folders / "llama")))
    asked, _ = build_run(load_command("infer"), ["--model_type", "tiny-llama", "--adapters", str(adapter)], {})
    for load in (
        lambda: open_model(asked),
        lambda: add_lora(load_model(source), source.card, TunerArgs(adapters=[str(adapter)]), dropout=False),
        lambda: load_reward_model(adapter),
    ):
        with pytest.raises(UserError, match=r"a pickle \(adapter_model.bin\)(.|\n)*--to_peft_format true --ckpt_dir"):
            load()
    draft = tmp_path / "draft"
    draft.mkdir()
    with pytest.raises(UserError, match="holds more than numbers"):
        to_peft(adapter, draft)
    assert not (tmp_path / "ran").exists()


def test_the_state_of_an_objective_is_numbers_and_its_own_class(tmp_path: Path) -> None:
    path, state = tmp_path / "objective_0.pt", State(7, draws=3, gap_mean=0.25)
    torch.save({"loss": state, "seen": torch.ones(2), "total": 1.5}, path)
    assert read_state(path, State(0))["loss"] == state
    with pytest.raises(UserError, match="holds more than the numbers"):
        read_state(path, None)
    torch.save({"loss": Evil(tmp_path / "ran")}, path)
    with pytest.raises(UserError, match="--resume_only_model true"):
        read_state(path, State(0))
    assert not (tmp_path / "ran").exists()
