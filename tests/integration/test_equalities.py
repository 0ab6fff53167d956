"""How an optimiser step is split over micro-batches does not change it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .runs import Ran, same, train

SPLITS = ((8, 1), (2, 4), (1, 8))
# the last of the three steps has 3 rows of 19: no split fills it evenly
OBJECTIVES = {
    "dpo": {"rlhf_type": "dpo", "rpo_alpha": 1},
    "dpo mix": {"rlhf_type": "dpo", "loss_type": ["sigmoid", "ipo", "sft"], "loss_weights": [0.5, 0.1, 0.4]},
    "cpo": {"rlhf_type": "cpo"},
    "simpo": {"rlhf_type": "simpo"},
    "orpo": {"rlhf_type": "orpo"},
    "orpo all": {"rlhf_type": "orpo", "orpo_nll_scope": "all"},
    "sft": {"lora_dropout": 0},
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_accumulation_equals_one_big_batch(name: str, pairs: Path, tmp_path: Path) -> None:
    runs = [_run(OBJECTIVES[name], pairs, tmp_path, batch, steps) for batch, steps in SPLITS]
    assert len(runs[0].lines) == 3
    for other in runs[1:]:
        same(runs[0], other)


def _run(flags: dict[str, Any], data: Path, out: Path, batch: int, steps: int) -> Ran:
    split = {"batch_size": batch, "gradient_accumulation_steps": steps}
    command = "rlhf" if "rlhf_type" in flags else "sft"
    return train(command, out, model_type="tiny-llama", dataset=data, ref_logps="live", learning_rate=1e-3, **split, **flags)
