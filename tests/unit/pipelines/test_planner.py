"""`swiftlike plan` and `--dry_run` for models of their published sizes, on cards that are not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import families
import pytest
from test_plan import PAIRS

from swiftlike.cli.commands import load
from swiftlike.cli.layers import build_run
from swiftlike.core.errors import UserError
from swiftlike.pipelines import planner, room, train

GIB = 1 << 30
PARTS = {"weights", "gradients", "optimiser", "activations", "logits"}
LLAMA_7B = {
    **{"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32},
    **{"num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration and tokenizer of a 7B model: there are no weights to load."""
    root = tmp_path_factory.mktemp("models")
    config = families.config("llama")
    for name, value in LLAMA_7B.items():
        setattr(config, name, value)
    config.save_pretrained(root)
    written = json.loads((root / "config.json").read_text()) | {"architectures": ["LlamaForCausalLM"]}
    (root / "config.json").write_text(json.dumps(written))
    families.tokenizer().save_pretrained(root)
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    return root


def asked(command: str, folder: Path, *words: str) -> Any:
    argv = ["--model", str(folder), "--dataset", str(folder / "rows.jsonl"), "--template", "chatml"]
    return build_run(load(command), [*argv, "--dataset_test_ratio", "0", *words], {})[0]


def planned(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    planner.run(asked("plan", folder, "--json", *words))
    return json.loads(capsys.readouterr().out)


def test_seven_billion_on_four_cards(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(folder, capsys, "--gpus", "4", "--gpu_memory", "80")
    lora, full = found["placements"]["lora"], found["placements"]["full"]
    weights = found["plan"]["parameters"] * 2
    single = next(row for row in lora if row["name"] == "single")
    assert single["cheapest"]
    assert 1 <= single["memory"]["weights"] / weights < 1.01  # bfloat16, as cards have it
    assert set(single["memory"]) == PARTS
    assert single["memory"]["activations"] > 0
    best = next(row for row in full if row["cheapest"])
    assert (best["name"], best["flags"]) == ("zero1", "NPROC_PER_NODE=4 --deepspeed zero1")
    assert best["memory"]["activations"] < GIB  # no half-precision copies of weights that are in half precision
    alone = next(row for row in full if row["name"] == "single")
    assert not alone["fits"]
    assert alone["memory"]["weights"] == pytest.approx(4 * weights, rel=1e-3)  # two models in float32
    mapped = next(row for row in lora if row["name"] == "device map")
    assert weights / 5 < mapped["memory"]["weights"] < weights / 3


def test_nothing_fits(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert planner.run(asked("plan", folder, "--gpus", "1", "--gpu_memory", "2", "--batch_size", "2")) == 1
    text = capsys.readouterr().out
    assert "nothing fits; what makes it smaller: --batch_size 1, --quant_bits 4, a smaller --max_length" in text


def test_a_dry_run_shows_where_layers_go(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = ("--dry_run", "--gpus", "2", "--gpu_memory", "12")
    with caplog.at_level("INFO", logger="swiftlike"):
        assert train.run(asked("rlhf", folder, *words)) is None
    assert "cuda:0: model.embed_tokens, model.layers.0-15, model.rotary_emb (6.28 GiB of weights)" in caplog.text
    assert "cuda:1: model.layers.16-31, model.norm, lm_head (6.28 GiB of weights)" in caplog.text
    assert "estimated peak memory per device: " in caplog.text


def test_what_is_not_estimated_does_not_stop_a_dry_run(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Packed weights under ZeRO; and a model that no device map could hold, which ZeRO-3 does not ask for."""
    words = ("--dry_run", "--gpus", "1", "--gpu_memory", "8", "--quant_bits", "4", "--deepspeed", "zero3_offload")
    with caplog.at_level("INFO", logger="swiftlike"):
        assert train.run(asked("rlhf", folder, *words)) is None
    assert "estimated disk" in caplog.text
    assert "estimated peak" not in caplog.text


def test_cards_are_described_for_plans_only(folder: Path) -> None:
    with pytest.raises(UserError, match="--gpus: describes cards for --dry_run"):
        asked("rlhf", folder, "--gpus", "2")
    assert asked("plan", folder, "--rlhf_type", "sft").rlhf.rlhf_type == "sft"


@pytest.mark.parametrize(
    ("words", "least"),
    [
        (("--sft_type", "full"), (4 + 12) * 6.738),  # float32 weights, gradients, Adam's two moments
        (("--sft_type", "full", "--optim", "adafactor"), (4 + 4) * 6.738),  # a reference, before there are gradients
        (("--sft_type", "full", "--rlhf_type", "cpo", "--optim", "adafactor"), 4 * 6.738),
        (("--torch_dtype", "bfloat16"), 2 * 6.738 + 0.2),
        (("--sft_type", "full", "--deepspeed", "zero3_offload"), 0),
        (("--sft_type", "full", "--device_map", "cpu"), 0),
        (("--max_memory", "0=1GiB", "cpu=100GiB"), 0),
    ],
)
def test_a_run_that_cannot_fit_is_refused_before_its_weights_are_read(
    words: tuple[str, ...], least: float, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("deepspeed")
    run = asked("rlhf", folder, "--output_dir", str(tmp_path / "out"), *words)
    monkeypatch.setattr(room, "memory", lambda: int(least * 0.99e9))
    if least:
        with pytest.raises(UserError, match=r"this run cannot fit: (.|\n)*swiftlike plan"):
            train.run(run)
    monkeypatch.setattr(room, "memory", lambda: int(least * 1.02e9))
    monkeypatch.setattr(train, "shared_folder", _enough)
    with pytest.raises(PassedError):
        train.run(run)
    assert not (tmp_path / "out").exists()


class PassedError(Exception):
    """The check has passed."""


def _enough(*_: Any) -> None:
    raise PassedError
