"""How an optimiser step is split over micro-batches does not change it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from swiftlike.data.bucketing import GroupSampler, Pick
from swiftlike.models import attention
from swiftlike.pipelines import assemble
from swiftlike.pipelines import train as train_pipeline

from .runs import Ran, same, train

SPLITS = ((8, 1), (2, 4), (1, 8))
# the last of an epoch's three steps has 3 rows of 19: no split fills it evenly
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
    assert len(runs[0].lines) == 6
    for other in runs[1:]:
        same(runs[0], other)


def _run(flags: dict[str, Any], data: Path, out: Path, batch: int, steps: int) -> Ran:
    split = {"batch_size": batch, "gradient_accumulation_steps": steps}
    command = "rlhf" if "rlhf_type" in flags else "sft"
    split |= {"num_train_epochs": 2, "learning_rate": 1e-3, "ref_logps": "live"}
    return train(command, out, model_type="tiny-llama", dataset=data, **split, **flags)


def test_kto_computes_the_same_rows_together_on_one_rank_and_on_two() -> None:
    """Its KL estimate is a mean over what is computed at once, so those rows must be the same."""
    lengths = [7, 3, 9, 1, 4, 8, 2, 6, 5, 7, 3, 9, 4]
    rounds = [_rounds(lengths, ranks) for ranks in (1, 2)]
    assert rounds[0] == rounds[1]
    assert len(rounds[0]) == 4
    assert sorted(pick.index for picks in rounds[0] for pick in picks) == list(range(13))


def _rounds(lengths: list[int], ranks: int) -> list[set[Pick]]:
    """The picks that count, of each micro-step over all ranks."""
    sampler = GroupSampler(lengths, per_step=8, per_round=4, ranks=ranks, partners=True)
    picks = list(sampler)
    assert len(picks) == len(sampler)
    assert len(picks) % ranks == 0 if ranks == 1 else len(picks) % 4 == 0
    return [{pick for pick in picks[start : start + 4] if pick.real} for start in range(0, len(picks), 4)]


@pytest.fixture(scope="module")
def long_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Groups of four answers that are longer than their prompt, shorter, and about as long together."""
    draw = random.Random(0)

    def text(count: int) -> str:
        return " ".join(draw.choice(["red", "green", "blue", "a", "dog", "runs"]) for _ in range(count))

    path = tmp_path_factory.mktemp("long") / "rows.jsonl"
    sizes = [(220, (60, 70, 40, 55)), (250, (15, 20, 10, 12)), (30, (240, 230, 250, 225))]
    rows = [
        {"prompt": text(prompt), "completions": [text(n) for n in answers], "scores": [0.9, 0.1, 0.5, 0.3]}
        for prompt, answers in sizes * 4
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


LONG = {
    "exo": {"rlhf_type": "exo", "loss_type": "exo-rw", "num_contrastive": 4},
    "rm": {"rlhf_type": "rm"},
    "dpo": {"rlhf_type": "dpo"},
    "orpo all": {"rlhf_type": "orpo", "orpo_nll_scope": "all"},
    "kto": {"rlhf_type": "kto"},
    "sft": {},
}


@pytest.mark.parametrize(("name", "checkpointing"), [*((name, True) for name in LONG), ("dpo", False), ("rm", False)])
def test_long_groups_train_alike_in_both_layouts(
    name: str, checkpointing: bool, long_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 steps in blocks, rows end to end, with the reference kept, against a padded row for each answer, with the
    reference computed."""
    packed, pack = [], attention.pack
    monkeypatch.setattr(attention, "pack", lambda *given: packed.append(given) or pack(*given))
    usual = LONG[name] | {
        "model_type": "tiny-llama", "dataset": long_rows, "batch_size": 3, "max_steps": 20, "num_train_epochs": 5,
        "learning_rate": 1e-4, "lora_dropout": 0, "gradient_checkpointing": checkpointing, "dataloader_num_workers": 0,
    }  # fmt: skip
    live = {"ref_logps": "live"} if name in ("exo", "dpo", "kto") else {}
    command = "sft" if name == "sft" else "rlhf"
    plain = train(command, tmp_path / "split", layout="split", **live, **usual)
    assert not packed
    fast = train(command, tmp_path / "shared", layout="shared", **usual)
    assert len(packed) >= 10
    assert len(fast.lines) == 20
    assert plain.column("padding")[-1] > 0.02
    assert fast.column("padding")[-1] == 0
    for name in ("loss", "grad_norm"):
        assert fast.column(name)[0] == pytest.approx(plain.column(name)[0], rel=1e-5)
    same(plain, fast, relative=1e-2, absolute=1e-3)  # Adam makes differences of rounding grow


@pytest.mark.parametrize("model", ["tiny-llama", "tiny-llava1_6"])
def test_what_is_recomputed_changes_no_number(
    model: str, tmp_path: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And frozen towers take no part in the backward pass, whatever is recomputed."""
    build, drawn = train_pipeline.build, []

    def watched(*given: Any) -> Any:
        trainer = build(*given)
        tower = next((one for name, one in trainer.model.named_modules() if name.endswith("vision_tower")), None)
        if tower is not None:
            tower.register_forward_hook(lambda _, __, out: drawn.append(out.last_hidden_state.requires_grad))
        return trainer

    monkeypatch.setattr(train_pipeline, "build", watched)
    usual = {
        "rlhf_type": "dpo", "model_type": model, "dataset": pairs if model == "tiny-llama" else "demo-vl#8",
        "max_steps": 4, "learning_rate": 1e-3, "ref_logps": "live", "dataloader_num_workers": 0,
    }  # fmt: skip
    plain = train("rlhf", tmp_path / "plain", gradient_checkpointing=False, **usual)
    for every in (1, 2):
        same(plain, train("rlhf", tmp_path / str(every), checkpointing_every_n_layers=every, **usual))
    assert set(drawn) == ({False} if model == "tiny-llava1_6" else set())


@pytest.mark.parametrize("model", ["tiny-llava1_6", "tiny-qwen2_5-vl", "tiny-internvl3"])
@pytest.mark.parametrize("frozen", [True, False])
def test_pictures_are_looked_at_once_for_policy_and_reference(
    model: str, frozen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is trained is looked at by each for itself."""
    build, looked = train_pipeline.build, []

    def watched(*given: Any) -> Any:
        trainer = build(*given)
        tower = next(one for name, one in trainer.model.named_modules() if name.endswith(("vision_tower", "visual")))
        tower.register_forward_hook(lambda *_: looked.append(1))
        return trainer

    monkeypatch.setattr(train_pipeline, "build", watched)
    usual = {
        "rlhf_type": "dpo", "model_type": model, "dataset": "demo-vl#8", "max_steps": 3, "batch_size": 2,
        "gradient_accumulation_steps": 2, "learning_rate": 1e-3, "ref_logps": "live", "dataloader_num_workers": 0,
        "freeze_vit": frozen, "lora_target_modules": ["ALL"],
    }  # fmt: skip
    once = train("rlhf", tmp_path / "once", **usual)
    count = len(looked)
    monkeypatch.setattr(assemble, "look_once", lambda _: None)
    same(once, train("rlhf", tmp_path / "twice", **usual))
    assert len(looked) - count == (2 * count if frozen else count)


def test_a_compiled_model_has_the_numbers_of_a_plain_one(pairs: Path, tmp_path: Path) -> None:
    """`aot_eager` goes through all that --torch_compile changes but the kernels: those want a compiler and time."""
    usual = {"rlhf_type": "dpo", "model_type": "tiny-llama", "dataset": pairs, "learning_rate": 1e-3, "max_steps": 4}
    usual |= {"gradient_checkpointing": False, "dataset_shuffle": False}
    compiled = train("rlhf", tmp_path / "compiled", torch_compile=True, torch_compile_backend="aot_eager", **usual)
    same(train("rlhf", tmp_path / "plain", **usual), compiled)
