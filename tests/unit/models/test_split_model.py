"""A model on two devices computes what it does on one: on fake cards everywhere, on a real one where there is one."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from operator import attrgetter
from pathlib import Path
from typing import Any

import families
import pytest
import torch
from fake_cards import FIRST, LAYOUTS, NAMES, SECOND
from peft import LoraConfig, get_peft_model
from split import attach, two_devices
from test_layout_equality import WEIGHTS, batch
from torch import nn

from swiftlike.models.logps import add_scoring, group_logps, model_inputs

HERE = Path(__file__).parent
EVERY = (*families.TEXT, *families.VISION)
needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def met() -> dict[str, Any]:
    path = os.pathsep.join([str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, str(HERE / "fake_cards.py")]
    done = subprocess.run(words, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_scores_of_fake_cards(name: str, layout: str, met: dict[str, Any]) -> None:
    """Weights on both; the numbers are where the batch is."""
    assert met[f"{name} {layout}"] == [FIRST, FIRST, SECOND]


def test_rewards_of_fake_cards(met: dict[str, Any]) -> None:
    assert met["rewards"] == [FIRST, FIRST, SECOND]


def test_fake_cards_notice_a_mistake(met: dict[str, Any]) -> None:
    """Without hooks nothing brings the hidden states to the second card."""
    assert "device" in met["no hooks"]
    assert "Error" in met["no hooks"]


def test_a_head_whose_weight_is_kept_elsewhere_is_fetched(tmp_path: Path) -> None:
    """accelerate's offloading to disk: the head has a weight only while its hook says so."""
    from accelerate import disk_offload

    model, made = families.model("llama"), batch("llama", "shared")
    whole = copy.deepcopy(model)
    add_scoring(whole)
    disk_offload(model, tmp_path, execution_device=torch.device("cpu"))
    assert model.lm_head.weight.device.type == "meta"
    add_scoring(model)
    with torch.no_grad():
        found, wanted = (group_logps(one(**model_inputs(made)), made)["policy"] for one in (model, whole))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.gpu
@needs_card
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", EVERY)
def test_processor_and_card_agree_with_processor_alone(name: str, layout: str, lora: bool) -> None:
    model, made = families.model(name), batch(name, layout)
    whole, where = copy.deepcopy(model), two_devices(model, ("cpu", "cuda:0"))
    attach(model, where)
    for name, device in where.items():
        part: Any = attrgetter(name)(model)  # a module, or a single weight
        if isinstance(part, nn.Parameter):
            part.data = part.data.to(device)
        else:
            part.to(device)
    found, wanted = (trained(one, made, lora) for one in (model, whole))
    assert {one.device.type for one in model.parameters()} == {"cpu", "cuda"}
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-3, atol=1e-3)
    for one, two in zip(found[1], wanted[1], strict=True):
        torch.testing.assert_close(one.cpu(), two, rtol=2e-2, atol=2e-3 * float(two.abs().max()) + 1e-6)


def trained(model: Any, made: dict[str, Any], lora: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Log-probabilities, and the gradients of a weighted sum of them."""
    add_scoring(model, chunk=8)
    if lora:
        torch.manual_seed(0)
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["o_proj"], init_lora_weights=False))
    policy = group_logps(model(**model_inputs(made)), made)["policy"]
    (policy * WEIGHTS).sum().backward()
    return policy.detach(), [one.grad for one in model.parameters() if one.grad is not None]
