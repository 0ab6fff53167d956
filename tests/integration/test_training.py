"""Training as a user sees it: losses fall, and what a run leaves can be used without swiftlike."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from swiftlike.data import demo
from swiftlike.models.tiny import cached

from .runs import Ran, same, train

VISION = ("tiny-llava1_6", "tiny-internvl3", "tiny-qwen2_5-vl")
OBJECTIVES: dict[str, dict[str, Any]] = {
    "dpo": {"rlhf_type": "dpo"},
    "dpo full": {"rlhf_type": "dpo", "sft_type": "full"},
    "dpo mix": {"rlhf_type": "dpo", "loss_type": ["sigmoid", "hinge", "sft"], "loss_weights": [0.5, 0.2, 0.3]},
    "dpo ipo": {"rlhf_type": "dpo", "loss_type": "ipo"},
    "dpo robust": {"rlhf_type": "dpo", "loss_type": ["robust", "sigmoid_norm"], "label_smoothing": 0.1},
    "dpo exo_pair": {"rlhf_type": "dpo", "loss_type": "exo_pair", "label_smoothing": 0.01, "rpo_alpha": 0},
    "dpo reference_free": {"rlhf_type": "dpo", "reference_free": True},
    "cpo": {"rlhf_type": "cpo"},
    "cpo hinge": {"rlhf_type": "cpo", "loss_type": "hinge"},
    "simpo": {"rlhf_type": "simpo"},
    "simpo nll": {"rlhf_type": "simpo", "cpo_alpha": 0.5},
    "orpo": {"rlhf_type": "orpo"},
    "orpo all": {"rlhf_type": "orpo", "orpo_nll_scope": "all"},
    "kto": {"rlhf_type": "kto"},
    "sft": {},
    "sft full": {"sft_type": "full"},
}
SEEN = ("dpo", "dpo full", "cpo", "simpo", "orpo", "orpo all", "kto", "sft", "sft full")


def _train(flags: dict[str, Any], out: Path, model: str = "tiny-llama", **more: Any) -> Ran:
    data = "demo#8" if model in ("tiny-llama", "tiny-qwen3") else "demo-vl#8"
    flags = {"model_type": model, "dataset": data, "learning_rate": 3e-3, "dataloader_num_workers": 0} | flags | more
    return train("rlhf" if "rlhf_type" in flags else "sft", out, **flags)


# -- losses -----------------------------------------------------------------------------------------------------------


def test_dpo_learns_a_small_set_by_heart_from_log_2_on(tmp_path: Path) -> None:
    ran = _train({"rlhf_type": "dpo", "rpo_alpha": 0}, tmp_path, dataset="demo#16", batch_size=16, max_steps=20)
    assert ran.losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert ran.column("rewards/margins")[0] == pytest.approx(0, abs=1e-6)
    assert ran.column("rewards/accuracies")[-1] == 1.0
    assert ran.losses[-1] < 0.3


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_lowers_its_loss_on_text(name: str, tmp_path: Path) -> None:
    ran = _train(OBJECTIVES[name], tmp_path, max_steps=5)
    assert ran.losses[-1] < ran.losses[0]
    assert all(grad > 0 for grad in ran.column("grad_norm"))


@pytest.mark.parametrize("number", range(len(SEEN)), ids=SEEN)
def test_every_objective_lowers_its_loss_on_pictures(number: int, tmp_path: Path) -> None:
    """The objectives take turns on the vision families."""
    ran = _train(OBJECTIVES[SEEN[number]], tmp_path, VISION[number % len(VISION)], max_steps=4)
    assert ran.losses[-1] < ran.losses[0]


@pytest.mark.parametrize("model", ["tiny-llama", *VISION])
@pytest.mark.parametrize("flags", [{"rlhf_type": "dpo"}, {"rlhf_type": "kto"}], ids=["dpo", "kto"])
def test_both_layouts_are_the_same_training(model: str, flags: dict[str, Any], tmp_path: Path) -> None:
    runs = [_train(flags, tmp_path, model, max_steps=3, ref_logps="live", layout=one) for one in ("shared", "split")]
    same(*runs)


# -- reference --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [{}, {"sft_type": "full"}, {"rlhf_type": "kto"}], ids=["lora", "full", "kto"])
def test_kept_reference_numbers_equal_computed_ones(
    flags: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a run that finds them does not compute the reference at all."""
    monkeypatch.setenv("SWIFTLIKE_CACHE", str(tmp_path / "cache"))
    flags = {"rlhf_type": "dpo", "learning_rate": 1e-3, "max_steps": 3} | flags
    live = _train(flags, tmp_path, ref_logps="live")
    assert not (tmp_path / "cache" / "ref_logps").exists()
    first = _train(flags, tmp_path, ref_logps="cache")
    same(live, first)

    def computed(*_: Any) -> None:
        raise AssertionError("the reference was computed")

    monkeypatch.setattr("swiftlike.models.reference._logps", computed)
    again = _train(flags, tmp_path, ref_logps="cache")
    same(first, again, relative=0, absolute=0)
    with pytest.raises(AssertionError, match="the reference was computed"):
        _train(flags, tmp_path, ref_logps="live")


def test_an_sft_adapter_is_where_dpo_starts_and_what_it_compares_with(tmp_path: Path) -> None:
    sft = _train({}, tmp_path / "sft", max_steps=5, save_strategy="steps")
    dpo = _train({"rlhf_type": "dpo", "rpo_alpha": 0}, tmp_path / "dpo", adapters=sft.checkpoint, max_steps=2)
    assert dpo.losses[0] == pytest.approx(math.log(2), abs=1e-6)
    plain = _train({"rlhf_type": "dpo", "rpo_alpha": 0}, tmp_path / "plain", max_steps=1)
    assert dpo.column("logps/chosen")[0] > plain.column("logps/chosen")[0] + 1


# -- what a run leaves ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_checkpoint_works_without_swiftlike(kind: str, tmp_path: Path) -> None:
    """transformers (and PEFT) alone give the log-probabilities that the run's last evaluation logged."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = _rows(demo.text(tmp_path))
    ran = _evaluated("tiny-llama", kind, rows, tmp_path)
    if kind == "lora":
        base = json.loads((ran.checkpoint / "adapter_config.json").read_text())["base_model_name_or_path"]
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), ran.checkpoint)
    else:
        model = AutoModelForCausalLM.from_pretrained(ran.checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(ran.checkpoint)
    for name, key in (("response", "chosen"), ("rejected_response", "rejected")):
        logps = []
        for row in rows:
            asked = [{"role": "user", "content": row["query"]}]
            prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
            inputs = tokenizer(prompt + row[name] + "<|im_end|>", return_tensors="pt")
            logps.append(_sum_of_logps(model, inputs, len(tokenizer(prompt)["input_ids"])))
        assert sum(logps) / len(logps) == pytest.approx(ran.evaluations[-1][f"eval_logps/{key}"], rel=1e-5)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_vision_checkpoint_works_without_swiftlike(kind: str, tmp_path: Path) -> None:
    """The same with the official processor of LLaVA-NeXT, read from the checkpoint."""
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor

    rows = _rows(demo.vision(tmp_path))
    ran = _evaluated("tiny-llava1_6", kind, rows, tmp_path)
    folder = ran.checkpoint if kind == "full" else cached("tiny-llava1_6")
    model = AutoModelForImageTextToText.from_pretrained(folder)
    model = model if kind == "full" else PeftModel.from_pretrained(model, ran.checkpoint)
    processor = AutoProcessor.from_pretrained(ran.checkpoint)
    logps = []
    for row in rows:
        picture = Image.open(row["images"][0])
        content = [{"type": "image"}, {"type": "text", "text": row["query"].removeprefix("<image>")}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(images=picture, text=prompt + row["response"] + "<|im_end|>", return_tensors="pt")
        answer = len(processor.tokenizer(row["response"] + "<|im_end|>")["input_ids"])
        logps.append(_sum_of_logps(model, inputs, inputs["input_ids"].shape[1] - answer))
    assert sum(logps) / len(logps) == pytest.approx(ran.evaluations[-1]["eval_logps/chosen"], rel=1e-5)


@pytest.mark.parametrize("model", VISION)
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_vision_checkpoint_has_its_processor(model: str, kind: str, tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoTokenizer

    ran = _train({"rlhf_type": "simpo", "sft_type": kind}, tmp_path, model, max_steps=1, save_strategy="steps")
    for file in cached(model).iterdir():
        if "process" in file.name or file.name == "chat_template.jinja":
            assert (ran.checkpoint / file.name).read_bytes() == file.read_bytes()
    mine, theirs = (AutoImageProcessor.from_pretrained(folder) for folder in (ran.checkpoint, cached(model)))
    assert mine.to_dict() == theirs.to_dict()
    text = "<image>What? <|im_end|>"
    mine, theirs = (AutoTokenizer.from_pretrained(folder)(text) for folder in (ran.checkpoint, cached(model)))
    assert mine["input_ids"] == theirs["input_ids"]


def test_the_files_of_a_run(tmp_path: Path) -> None:
    flags = {"rlhf_type": "dpo", "val_dataset": "demo:test#4", "eval_steps": 2, "save_strategy": "steps"}
    ran = _train(flags, tmp_path, max_steps=4, logging_steps=2, curves=True)
    assert ran.folder.parent == tmp_path / "tiny-llama"
    assert sorted(path.name for path in ran.folder.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]

    for folder in (ran.folder, ran.checkpoint):
        record = json.loads((folder / "args.json").read_text())
        assert record["command"] == "rlhf"
        assert record["args"]["rlhf_type"] == "dpo"
        assert record["args"]["learning_rate"] == 3e-3
        assert record["origin"]["learning_rate"] == "command line"
        assert (record["args"]["save_steps"], record["origin"]["save_steps"]) == (2, "derived")
        assert None not in (record["args"][name] for name in ("dataset_seed", "eval_batch_size"))

    assert [line["step"] for line in ran.lines] == ["1/4", "2/4", "4/4"]
    assert [line["step"] for line in ran.evaluations] == ["2/4", "4/4"]
    for line in ran.lines:
        assert {"loss", "grad_norm", "learning_rate", "rewards/margins", "remaining_s", "memory_gib"} <= line.keys()
        assert 0 <= line["padding"] < 1
        assert line["tokens_per_s"] > 0
    drawn = {path.stem for path in (ran.folder / "images").glob("*.png")}
    assert {"loss", "eval_loss", "rewards_accuracies", "grad_norm", "learning_rate"} <= drawn
    assert not drawn & {"elapsed_s", "remaining_s", "epoch"}
    with Image.open(ran.folder / "images" / "loss.png") as picture:
        assert picture.size == (600, 400)
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 2


def _rows(file: Path, count: int = 6) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in file.read_text().splitlines()[:count]]
    return [row | {"images": [str(file.parent / name) for name in row.get("images", [])]} for row in rows]


def _evaluated(model: str, kind: str, rows: Sequence[dict[str, Any]], folder: Path) -> Ran:
    """A run that was evaluated on `rows` at its end, and saved then."""
    file = folder / "rows.json"
    file.write_text(json.dumps(rows))
    flags = {"rlhf_type": "dpo", "sft_type": kind, "val_dataset": file, "save_strategy": "steps"}
    return _train(flags, folder, model, max_steps=3, eval_batch_size=4)


@torch.no_grad()
def _sum_of_logps(model: Any, inputs: Any, prompt: int) -> float:
    logps = model.eval()(**inputs).logits[0].log_softmax(-1)
    ids = inputs["input_ids"][0]
    return logps[:-1].gather(1, ids[1:, None])[prompt - 1 :].sum().item()
