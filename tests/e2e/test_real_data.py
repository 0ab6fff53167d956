"""Published preference data as it comes: every objective takes two steps. Skipped where the files are not."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from integration.runs import Ran, train

SHARED = Path(os.environ.get("SWIFTLIKE_SHARED") or Path(__file__).parents[3] / "shared") / "data"
PAIRS, LABELLED = SHARED / "dpo_en_demo" / "dpo_en_demo.json", SHARED / "kto_en_demo" / "kto_en_demo.json"
PICTURES = SHARED / "vl_pairs" / "pairs.jsonl"
RANKED = SHARED / "alpaca_eval_ranked" / "ranked.jsonl.gz"
SHORT = {"max_length": 1024, "on_bad_row": "drop"}


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWIFTLIKE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
    torch.set_num_threads(threads)


def _train(data: Path | str, out: Path, **flags: Any) -> Ran:
    file = Path(str(data).partition("#")[0])
    if not file.is_file():
        pytest.skip(f"{file} is not there; set SWIFTLIKE_SHARED to the folder that has data/{file.parent.name}")
    ran = train("rlhf" if "rlhf_type" in flags else "sft", out, dataset=data, max_steps=2, batch_size=2, **flags)
    assert [line["step"] for line in ran.lines] == ["1/2", "2/2"]
    assert all(math.isfinite(number) and number > 0 for name in ("loss", "grad_norm") for number in ran.column(name))
    return ran


@pytest.mark.parametrize("objective", ["dpo", "simpo", "orpo", "cpo"])
def test_text_pairs(objective: str, tmp_path: Path) -> None:
    """Conversations that are longer than the limit are left out."""
    _train(PAIRS, tmp_path, model_type="tiny-llama", rlhf_type=objective, **SHORT)


def test_text_pairs_cut_to_length(tmp_path: Path) -> None:
    ran = _train(PAIRS, tmp_path, model_type="tiny-qwen3", rlhf_type="dpo", **SHORT, truncation_strategy="right")
    assert ran.column("loss")[0] > 0.69


def test_labelled_text(tmp_path: Path) -> None:
    ran = _train(LABELLED, tmp_path, model_type="tiny-llama", rlhf_type="kto", **SHORT)
    assert ran.column("loss")[0] == pytest.approx(0.5, abs=1e-4)


def test_supervised(tmp_path: Path) -> None:
    _train(PAIRS, tmp_path, model_type="tiny-llama", **SHORT)


@pytest.mark.parametrize("objective", ["dpo", "simpo"])
@pytest.mark.parametrize("model", ["tiny-llava1_6", "tiny-internvl3", "tiny-qwen2_5-vl"])
def test_pictures(model: str, objective: str, tmp_path: Path) -> None:
    _train(PICTURES, tmp_path, model_type=model, rlhf_type=objective, dataloader_num_workers=0)


@pytest.mark.parametrize(
    ("objective", "flags"),
    [
        ("exo", {"loss_type": "exo-rw", "num_contrastive": 4}),
        ("exo", {"loss_type": "exo-rw", "num_contrastive": 2}),
        ("exo", {"loss_type": "dpo-rw", "num_contrastive": 4}),
        ("exo", {"loss_type": "exo-pref"}),
        ("beta_dpo", {}),
        ("aipo", {}),
        ("rm", {}),
        ("apo_rm", {}),
    ],
)
def test_scored_answers(objective: str, flags: dict[str, Any], tmp_path: Path) -> None:
    """Four scored answers a prompt, the file as it is: as lists, or the best against the worst."""
    short = {"max_completion_length": 100, "max_length": 512, "on_bad_row": "drop", "dataset_test_ratio": 0}
    ran = _train(f"{RANKED}#40", tmp_path, model_type="tiny-llama", rlhf_type=objective, **short, **flags)
    if objective == "exo":
        assert ran.column("exo/entropy_q")[0] == pytest.approx(math.log(flags.get("num_contrastive", 2)), abs=1e-3)


def test_best_against_worst(tmp_path: Path) -> None:
    """The reward file converted to pairs trains as pairs."""
    if not RANKED.is_file():
        pytest.skip(f"{RANKED} is not there")
    pairs = tmp_path / "pairs.jsonl"
    argv = ["convert", "exo_reward", "exo_preference", f"{RANKED}#40", "--output", str(pairs)]
    subprocess.run([sys.executable, "-m", "swiftlike", *argv], check=True, capture_output=True)
    short = {"max_completion_length": 100, "max_length": 512, "on_bad_row": "drop", "dataset_test_ratio": 0}
    ran = _train(pairs, tmp_path / "out", model_type="tiny-llama", rlhf_type="exo", **short)
    assert ran.column("loss")[0] == pytest.approx(5 - math.log(2), abs=1e-2)  # q = 1/2: KL to labels 1 and e^-10


@pytest.mark.parametrize("objective", ["rm", "exo", "beta_dpo"])
@pytest.mark.parametrize("model", ["tiny-internvl3", "tiny-llava1_6"])
def test_pictures_of_newer_objectives(model: str, objective: str, tmp_path: Path) -> None:
    _train(PICTURES, tmp_path, model_type=model, rlhf_type=objective, dataloader_num_workers=0)
