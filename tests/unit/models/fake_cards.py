"""Forward passes of tiny models on two cards that are not there, for test_split_model.py, in a process of its own: what
torch is told about its devices cannot be taken back.

Tensors are torch's fake ones: they have a device and no numbers, and mixing devices is refused as with real ones.
`python fake_cards.py` prints JSON: case to the devices that were met, or to the error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import families
import torch
from split import attach, device_at, two_devices
from test_layout_equality import batch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import backend_registration

from swiftlike.models.logps import add_scoring, group_logps, model_inputs
from swiftlike.models.reward_head import ValueHead, add_value_head, hidden_size, reward_inputs

NAMES = ("llama", "qwen3", "mistral-window", "phi3", "llava", "internvl")
LAYOUTS = ("split", "shared", "shared end to end")
FIRST, SECOND = "card:0", "card:1"


def fake(model: nn.Module, where: Mapping[str, str]) -> None:
    """The model's weights as fake ones on the devices of the map; tied ones stay tied."""
    made: dict[int, Any] = {}
    for name, module in model.named_modules():
        for own in (module._parameters, module._buffers):
            for key, tensor in own.items():
                if tensor is not None and id(tensor) not in made:
                    bare = torch.empty_like(tensor, device=device_at(where, name))
                    made[id(tensor)] = nn.Parameter(bare) if isinstance(tensor, nn.Parameter) else bare
                own[key] = None if tensor is None else made[id(tensor)]


def moved(mode: FakeTensorMode, made: Mapping[str, Any]) -> dict[str, Any]:
    return {key: mode.from_tensor(value).to(FIRST) for key, value in made.items() if isinstance(value, torch.Tensor)}


def devices(model: nn.Module, result: torch.Tensor) -> list[str]:
    return [str(result.device), *sorted({str(one.device) for one in model.parameters()})]


def scores(name: str, layout: str, hooks: bool = True) -> list[str]:
    model, made = families.model(name), batch(name, layout)
    where = two_devices(model, (FIRST, SECOND))
    if hooks:
        attach(model, where)
    add_scoring(model, chunk=8)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake(model, where)
        made = moved(mode, made)
        return devices(model, group_logps(model(**model_inputs(made)), made)["policy"])


def rewards(pooling: str) -> list[str]:
    model, made = families.model("llama"), batch("llama", "shared")
    where = two_devices(model, (FIRST, SECOND))
    attach(model, where)
    add_value_head(model, ValueHead(hidden_size(model)), pooling)
    made = made | {"pool_at": made["predict"], "pool_slots": made["slots"]}
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake(model, where | {"v_head": SECOND})
        return devices(model, model(**reward_inputs(moved(mode, made))))


def said(case: Callable[[], list[str]]) -> list[str] | str:
    try:
        return case()
    except RuntimeError as error:
        return f"{type(error).__name__}: {error}"


def main() -> None:
    """Every case."""
    backend_registration._setup_privateuseone_for_python_backend("card")
    torch.card.get_amp_supported_dtype = lambda: [torch.bfloat16]
    # every token of a fake batch has a slot of its own: how many there are would be told by numbers
    torch.unique_consecutive = lambda slots, return_inverse: (slots, torch.arange(len(slots), device=slots.device))
    torch._check_tensor_all_with = lambda *args: None  # whether there are as many features as places for them
    found = {f"{name} {layout}": said(lambda n=name, y=layout: scores(n, y)) for name in NAMES for layout in LAYOUTS}
    found["rewards"] = said(lambda: rewards("eos"))
    found["no hooks"] = said(lambda: scores("llama", "split", hooks=False))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
