"""The step that is gone through without numbers needs what the real one needs, as torch's allocator and autograd say.

`benchmarks/memory_plan.py` does the same with models of 30 million weights.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import families
import pytest
import torch

from swiftlike.models.load import skeleton
from swiftlike.models.logps import add_scoring, model_inputs
from swiftlike.models.rehearsal import Batch, Step, Watch, Way, rehearse, shortened

FOLDER = Path(__file__).parents[3] / "benchmarks"
SMALL = {
    **{"vocab_size": 3000, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 5},
    **{"num_attention_heads": 2, "num_key_value_heads": 1},
}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import memory_plan

    monkeypatch.setattr(memory_plan, "SIZE", SMALL)
    yield memory_plan
    for path in FOLDER.glob("*.py"):
        sys.modules.pop(path.stem, None)


CASES = {
    "lora": {},
    "lora-kept": {"every": 0},
    "lora-half": {"every": 0, "dtype": "bfloat16"},
    "lora-every-second": {"every": 2},
    "full": {"full": True},
    "full-kept": {"full": True, "every": 0},
    "full-accumulated": {"full": True, "accumulates": True},
    "split": {"layout": "split", "every": 0},
}


@pytest.mark.parametrize("words", CASES.values(), ids=CASES)
@pytest.mark.parametrize("family", ["llama", "gemma2", "llava", "qwen2_5_vl"])
def test_within_fifteen_percent_of_the_allocator(family: str, words: dict[str, Any], bench: Any) -> None:
    if words and family not in ("llama", "llava") and "every" not in words:
        pytest.skip("one kind of model is enough")
    case = bench.Case(family, **words)
    made = bench.batch(case)
    assert bench.estimate(case, made).total == pytest.approx(bench.measure(case, made), rel=0.15)


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3", "internvl"])
def test_what_autograd_saves_is_most_of_it(family: str, full: bool, bench: Any) -> None:
    """Without recomputation the peak comes when everything is saved. Counted by autograd's own hooks."""
    case = bench.Case(family, full=full, every=0)
    made = bench.batch(case)
    with torch.random.fork_rng():
        model = families.auto_class(family).from_config(bench.configuration(case), dtype=torch.float32)
    add_scoring(model)
    model = bench.tuned(case, model).train()
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        scores = model(**model_inputs(copy.copy(made)))
    planned = bench.estimate(case, made)
    assert scores[0].requires_grad
    assert 0.75 < sum(saved.values()) / (planned.total - planned.gradients) < 1.05


def test_what_is_alive_is_counted_once_and_forgotten() -> None:
    with Watch(vocabulary=7) as watch:
        first = torch.zeros(10, 10)
        view = first.t()[2:]
        wide = torch.zeros(5, 7)
        assert watch.now == {"gradients": 0, "logits": 5 * 7 * 4, "activations": 400}
        del first
        assert watch.now["activations"] == 400
        del view, wide
        second = torch.zeros(3)
    assert watch.now == {"gradients": 0, "logits": 0, "activations": second.nbytes}
    assert watch.peak == Step(0, 5 * 7 * 4, 400)


def test_layers_that_are_alike_are_not_gone_through() -> None:
    """Eight layers cost two and six times what the third adds, exactly what eight that are gone through cost."""
    ids = torch.zeros(1, 300, dtype=torch.long)
    batch = Batch(input_ids=ids, position_ids=torch.arange(300)[None], predict=torch.arange(290), segments=ids)
    kinds = {"weights": torch.float32, "trained": torch.float32, "compute": torch.float32}
    way = Way(**kinds, accumulates=True, every=1, reference=False, head=True, chunk=64)
    config = shortened(families.config("llama"), 8)
    assert config.num_hidden_layers == 8
    step, layer = rehearse(skeleton, config, batch, way)
    five, again = rehearse(skeleton, shortened(config, 5), batch, way)
    assert layer == again
    assert step.total - five.total == 3 * layer.total
    assert step.total > five.total > 0
    assert rehearse(skeleton, config, batch, Way(**kinds, **KEPT))[0].activations > step.activations


KEPT = {"accumulates": True, "every": 0, "reference": False, "head": True, "chunk": 64}
