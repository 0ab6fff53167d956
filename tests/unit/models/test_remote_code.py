"""A model folder that brings code for an architecture that transformers lacks."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import families
import pytest
import torch
import transformers.dynamic_module_utils

from swiftlike.args.model import ModelArgs
from swiftlike.core.errors import UserError
from swiftlike.models.load import load_config, load_model, load_tokenizer, locate, skeleton

CONFIG = """\
import pathlib
from transformers import LlamaConfig
pathlib.Path({mark!r}).touch()
class StrangeConfig(LlamaConfig):
    model_type = "strange"
"""
MODEL = """\
from transformers import LlamaForCausalLM
from .strange_config import StrangeConfig
class StrangeForCausalLM(LlamaForCausalLM):
    config_class = StrangeConfig
"""


@pytest.fixture
def strange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A llama under another name; its code leaves a mark when it runs."""
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "strange"
    families.save("llama", folder)
    config = json.loads((folder / "config.json").read_text())
    auto = {"AutoConfig": "strange_config.StrangeConfig", "AutoModelForCausalLM": "strange_model.StrangeForCausalLM"}
    config |= {"model_type": "strange", "architectures": ["StrangeForCausalLM"], "auto_map": auto}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "strange_config.py").write_text(CONFIG.format(mark=str(tmp_path / "ran")))
    (folder / "strange_model.py").write_text(MODEL)
    return folder


def test_it_is_refused_with_what_to_do(strange: Path, tmp_path: Path) -> None:
    for weights in (True, False):
        with pytest.raises(UserError, match=r"brings code of its own(.|\n)*\(strange\)(.|\n)*--trust_remote_code true"):
            locate(ModelArgs(model=str(strange)), weights)
    assert not (tmp_path / "ran").exists()


def test_it_runs_when_it_is_trusted_and_is_named_aloud(
    strange: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("swiftlike"), "propagate", True)
    source = locate(ModelArgs(model=str(strange), trust_remote_code=True))
    (record,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert record.getMessage().endswith(f"RUNNING CODE THAT COMES WITH {strange}: strange_config.py, strange_model.py")
    model = load_model(source)
    assert type(model).__name__ == "StrangeForCausalLM"
    assert (tmp_path / "ran").exists()
    assert load_tokenizer(source).pad_token_id is not None
    assert skeleton(load_config(source)).num_parameters() == model.num_parameters()
    plain = families.model("llama")
    plain.load_state_dict(model.state_dict())
    ids = torch.arange(8)[None]
    torch.testing.assert_close(model(ids).logits, plain(ids).logits)
