"""Reward models from the command line's words to files on disk, against a plain forward pass written out here."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from swiftlike.cli.commands import load
from swiftlike.cli.layers import build_run
from swiftlike.core.errors import UserError
from swiftlike.core.files import read_args
from swiftlike.data.bucketing import Pick
from swiftlike.data.collate import Collator
from swiftlike.losses.calibration import calibration_error
from swiftlike.models.load import locate
from swiftlike.models.reward_files import RewardModel, load_reward_model, read_head
from swiftlike.models.reward_head import base_of, group_rewards, reward_inputs
from swiftlike.pipelines.prepare import encoder, open_checkpoint
from swiftlike.pipelines.rewards import end_tokens
from swiftlike.pipelines.train import groups, loss_card, read_data

from .runs import distributed, same, train, words, write_rows

RM = {"rlhf_type": "rm", "model_type": "tiny-llama", "learning_rate": 1e-2}
APO = {**RM, "rlhf_type": "apo_rm"}
SAVED = {"save_strategy": "steps", "max_steps": 2}


@pytest.fixture(scope="session")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """13 lists of 2 to 4 scored answers, some equal, scores partly below 0; every third sets a golden answer against
    a sample."""
    rows: list[dict[str, Any]] = []
    for number in range(13):
        size = 2 + number % 3
        row: dict[str, Any] = {
            "prompt": f"What about number {number}?" + " Tell me more." * (number % 4),
            "completions": [f"It is {k} times {number}." + " So be it." * (k * number % 5) for k in range(size)],
            "rewards": [(k * 7 + number) % 4 - 1.5 for k in range(size)],
        }
        if number % 3 == 0:
            row |= {"completions": row["completions"][:2], "rewards": [1, 0], "type": "apo", "query_id": number // 6}
        rows.append(row)
    return write_rows(tmp_path_factory.mktemp("rows") / "lists.jsonl", rows)


def encoded(flags: dict[str, Any]) -> Any:
    """The groups of a data set as the run would train on them."""
    asked, _ = build_run(load("rlhf"), words("rlhf", flags)[1:], {})
    return read_data(asked.replace("test", dataset_seed=1), open_checkpoint(asked, weights=False), loss_card(asked))


def plain_scores(checkpoint: Path, rows: Any, pooling: str, ends: set[int]) -> list[list[float]]:
    """Every answer alone behind its prompt through the original model class, then the head by hand."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    saved = read_args(checkpoint)[1]
    asked, _ = build_run(load("rlhf"), ["--model_type", saved["model_type"], "--dataset", "demo"], {})
    model = AutoModelForCausalLM.from_pretrained(locate(asked.model).folder)
    model = PeftModel.from_pretrained(model, str(checkpoint)).eval()
    head = read_head(checkpoint)
    return [
        [_plain_score(model, head, [*group.prompt.ids, *one.ids], pooling, ends) for one in group.completions]
        for group in rows
    ]


def _plain_score(model: Any, head: Any, ids: list[int], pooling: str, ends: set[int]) -> float:
    with torch.no_grad():
        hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
    place = -2 if pooling == "last" and ids[-1] in ends else -1
    pooled = {"mean": hidden.mean(0), "max": hidden.amax(0)}.get(pooling, hidden[place])
    return (pooled @ head["summary.weight"][0] + head["summary.bias"][0]).item()


# -- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_what_can_be_learnt_is_learnt(kind: str, pairs: Path, tmp_path: Path) -> None:
    flags = {"sft_type": kind, "num_train_epochs": 8, "learning_rate": 1e-2 if kind == "lora" else 1e-3}
    ran = train("rlhf", tmp_path, **RM | flags, dataset=pairs)
    assert ran.losses[0] == pytest.approx(math.log(2), abs=0.1)
    assert np.mean(ran.column("accuracy")[-3:]) == 1.0
    assert ran.losses[-1] < 0.2
    last = ran.lines[-1]
    assert (
        last["margin"]
        == pytest.approx(last["rewards/margins"])
        == pytest.approx(last["rewards/chosen"] - last["rewards/rejected"], abs=1e-5)
    )
    assert last["min_reward"] < last["mean_reward"] < last["max_reward"]


@pytest.mark.parametrize("flags", [RM, {**RM, "rm_pooling": "mean", "center_rewards_coefficient": 0.1}, APO])
def test_layouts_and_splits_of_a_step_are_equal(
    flags: dict[str, Any], pairs: Path, lists: Path, tmp_path: Path
) -> None:
    """Pairs are counted over the whole step, also where lists differ in length and kind."""
    flags = flags | {"dataset": lists if flags["rlhf_type"] == "apo_rm" else pairs, "num_train_epochs": 2}
    one = train("rlhf", tmp_path / "one", **flags)
    assert len(one.lines) >= 4
    for name, other in {
        "split": {"layout": "split"},
        "accumulated": {"batch_size": 1, "gradient_accumulation_steps": 8},
        "both": {"batch_size": 4, "gradient_accumulation_steps": 2, "layout": "split"},
    }.items():
        same(one, train("rlhf", tmp_path / name, **flags | other))


@pytest.mark.parametrize("name", ["rm", "apo_rm"])
def test_two_processes_equal_one(name: str, pairs: Path, lists: Path, tmp_path: Path) -> None:
    data = {"rm": pairs, "apo_rm": lists}[name]
    flags = {**RM, "rlhf_type": name, "dataset": data, "val_dataset": data, "num_train_epochs": 2}
    flags |= {"sft_type": "full", "learning_rate": 1e-4} if name == "rm" else {}
    one = train("rlhf", tmp_path / "one", **flags, batch_size=4, gradient_accumulation_steps=2)
    two = distributed("rlhf", tmp_path / "two", **flags, batch_size=2, gradient_accumulation_steps=2)
    same(one, two)
    assert one.evaluations
    if name == "apo_rm":
        assert (two.folder / "images" / "reliability_bin10.png").is_file()


# -- what is reported -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["eos", "last", "mean", "max"])
def test_pairs_are_scored_as_a_plain_forward_pass_scores_them(pooling: str, pairs: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    data = write_rows(tmp_path / "pairs.jsonl", [row | {"margin": i / 10} for i, row in enumerate(rows)])
    flags = {**RM, "rm_pooling": pooling, "center_rewards_coefficient": 0.05, "dataset": data, "val_dataset": data}
    ran = train("rlhf", tmp_path, **flags, **SAVED)
    rows = encoded(flags).val
    ends = {load_reward_model(ran.checkpoint).tokenizer.eos_token_id}
    chosen, rejected = np.array(plain_scores(ran.checkpoint, rows, pooling, ends)).T
    margin = np.array([group.margin for group in rows])
    assert set(margin) > {0.0, 1.0}
    loss = np.log1p(np.exp(-(chosen - rejected - margin))) + 0.05 * (chosen + rejected) ** 2
    both = np.stack([chosen, rejected])
    expected = {
        "eval_loss": loss.mean(),
        "eval_accuracy": (chosen > rejected).mean(),
        "eval_margin": (chosen - rejected).mean(),
        "eval_min_reward": both.min(),
        "eval_mean_reward": both.mean(),
        "eval_max_reward": both.max(),
        "eval_rewards/chosen": chosen.mean(),
    }
    found = ran.evaluations[-1]
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_lists_are_scored_and_calibrated(lists: Path, tmp_path: Path) -> None:
    """Loss, accuracy, average and calibration errors by hand, from scores of a plain forward pass."""
    flags = {**APO, "dataset": lists, "val_dataset": lists, "calibration_bins": [4, 10], "eval_batch_size": 3}
    ran = train("rlhf", tmp_path, curves=True, **flags, **SAVED)
    rows = encoded(flags).val
    ends = {load_reward_model(ran.checkpoint).tokenizer.eos_token_id}
    scores = plain_scores(ran.checkpoint, rows, "last", ends)
    terms, outcomes, probabilities, right = [], [], [], []
    for group, own in zip(rows, scores, strict=True):
        assert all(0 < one < 1 for one in group.scores)
        for i, j in ((i, j) for i in range(len(own)) for j in range(len(own)) if group.scores[i] != group.scores[j]):
            outcomes.append(float(group.scores[i] > group.scores[j]))
            probabilities.append(1 / (1 + math.exp(own[j] - own[i])))
            right.append((own[i] > own[j]) == (group.scores[i] > group.scores[j]))
            if group.scores[i] > group.scores[j]:
                factor = 0.1 / 2 if group.mark == "apo" else 1.0  # query 0 and 1 have two adversarial items each
                terms.append(-factor * math.log(probabilities[-1]))
    expected = {
        "eval_loss": np.mean(terms),
        "eval_accuracy": np.mean(right),
        "eval_avg_score": np.mean([one for own in scores for one in own]),
    }
    for n in (4, 10):
        errors = calibration_error(outcomes, probabilities, n)
        expected |= {f"eval_calibration_{name}_bin{n}": value for name, value in errors.items()}
        with Image.open(ran.folder / "images" / f"reliability_bin{n}.png") as picture:
            assert picture.size == (500, 600)
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 50
    found = ran.evaluations[-1]
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert not any("calibration" in name for name in ran.lines[-1])


def test_calibration_can_be_left_out(lists: Path, tmp_path: Path) -> None:
    flags = {**APO, "dataset": lists, "val_dataset": lists, "rm_calibration": False, "task_type": "rm"}
    ran = train("rlhf", tmp_path, curves=True, **flags, max_steps=1)
    assert "eval_accuracy" in ran.evaluations[-1]
    assert not any("calibration" in name for name in ran.evaluations[-1])
    assert not (ran.folder / "images" / "reliability_bin10.png").exists()


# -- files ------------------------------------------------------------------------------------------------------------


def test_the_head_lies_beside_the_adapter(pairs: Path, tmp_path: Path) -> None:
    ran = train("rlhf", tmp_path, **RM, **SAVED, dataset=pairs)
    with safe_open(ran.checkpoint / "value_head.safetensors", "pt") as file:
        shapes = {name: tuple(file.get_tensor(name).shape) for name in file.keys()}  # noqa: SIM118 - not a mapping
        assert file.metadata() == {"format": "pt"}
    assert shapes == {"v_head.summary.weight": (1, 128), "v_head.summary.bias": (1,)}
    with safe_open(ran.checkpoint / "adapter_model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "lora" not in name]  # noqa: SIM118


def test_full_training_saves_a_sequence_classifier(pairs: Path, tmp_path: Path) -> None:
    """What transformers' own class says of a padded batch is what the evaluation reported."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    flags = {**RM, "sft_type": "full", "dataset": pairs, "val_dataset": pairs, "learning_rate": 1e-3}
    ran = train("rlhf", tmp_path, **flags, **SAVED)
    assert not (ran.checkpoint / "value_head.safetensors").exists()
    model, info = AutoModelForSequenceClassification.from_pretrained(ran.checkpoint, output_loading_info=True)
    assert not any(info.values())
    assert model.config.num_labels == 1
    rows = encoded(flags).val
    ids = [np.concatenate([group.prompt.ids, one.ids]).tolist() for group in rows for one in group.completions]
    tokenizer = AutoTokenizer.from_pretrained(ran.checkpoint)
    first = json.loads(pairs.read_text(encoding="utf-8").splitlines()[0])
    chat = [{"role": "user", "content": first["query"]}, {"role": "assistant", "content": first["response"]}]
    assert tokenizer.apply_chat_template(chat)["input_ids"] == ids[0]  # its own template ends where a reward is read
    assert tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True).endswith("assistant\n")
    padded = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
    assert (padded["attention_mask"] == 0).any()
    with torch.no_grad():
        logits = model.eval()(**padded).logits.view(-1, 2)
    found = ran.evaluations[-1]
    assert found["eval_rewards/chosen"] == pytest.approx(logits[:, 0].mean().item(), abs=1e-5)
    assert found["eval_rewards/rejected"] == pytest.approx(logits[:, 1].mean().item(), abs=1e-5)
    assert found["eval_max_reward"] == pytest.approx(logits.max().item(), abs=1e-5)


KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora, mean": {"rm_pooling": "mean"},
    "full": {"sft_type": "full", "learning_rate": 1e-3},
    "full, last": {"sft_type": "full", "learning_rate": 1e-3, "rm_pooling": "last"},
    "full, bias": {"sft_type": "full", "learning_rate": 1e-3, "rm_head_bias": True},
    "lora, apo template": {"rlhf_type": "apo_rm", "template": "apo"},
    "full, apo template": {"rlhf_type": "apo_rm", "template": "apo", "sft_type": "full", "learning_rate": 1e-3},
    "llava": {"model_type": "tiny-llava1_6"},
    "llava, full": {"model_type": "tiny-llava1_6", "sft_type": "full", "learning_rate": 1e-3, "freeze_vit": False},
    "internvl": {"model_type": "tiny-internvl3"},
    "internvl, full": {"model_type": "tiny-internvl3", "sft_type": "full", "learning_rate": 1e-3},
}


@pytest.mark.parametrize("name", KINDS)
def test_a_checkpoint_scores_as_the_run_did(name: str, pairs: Path, mixed: Path, tmp_path: Path) -> None:
    """Loaded from its folder alone, and continued as the start of another run, which keeps the pooling."""
    data = pairs if "model_type" not in KINDS[name] else mixed
    flags = RM | KINDS[name] | {"dataset": data, "val_dataset": data}
    ran = train("rlhf", tmp_path / "first", **flags, **SAVED)
    classifier = name == "full"
    assert (ran.checkpoint / "value_head.safetensors").exists() != classifier
    loaded = load_reward_model(ran.checkpoint)
    assert loaded.pooling == flags.get("rm_pooling", "eos" if flags["rlhf_type"] == "rm" else "last")
    assert not loaded.model.training
    assert not any("v_head" in key for key in keys_of(ran.checkpoint))

    expected = ran.evaluations[-1].get("eval_mean_reward", ran.evaluations[-1].get("eval_avg_score"))
    assert average_reward(loaded, flags) == pytest.approx(expected, abs=1e-4)

    start = {"model": ran.checkpoint} if "full" in name else {"adapters": ran.checkpoint}
    plain = {key: value for key, value in flags.items() if key not in ("rm_pooling", "rm_head_bias", "model_type")}
    kept = {"learning_rate": 0, "max_steps": 1, "save_strategy": "steps"}
    again = train("rlhf", tmp_path / "again", **plain | kept, **start)
    for key, value in ran.evaluations[-1].items():
        if "reward" in key or key in ("eval_loss", "eval_margin", "eval_accuracy"):
            assert again.evaluations[-1][key] == pytest.approx(value, abs=1e-4), key
    for folder in (ran.checkpoint, again.checkpoint):
        head = read_head(folder)["summary.weight"]
        torch.testing.assert_close(base_of(loaded.model).v_head.summary.weight, head, rtol=0, atol=0)


def average_reward(loaded: RewardModel, flags: dict[str, Any]) -> float:
    """Mean reward of the validation rows, by the loaded model alone, in batches of three."""
    asked, _ = build_run(load("rlhf"), words("rlhf", flags)[1:], {})
    checkpoint = open_checkpoint(asked, weights=False)
    collate = Collator(
        pad_id=checkpoint.tokenizer.pad_token_id,
        layout=checkpoint.layout,
        adapter=checkpoint.adapter,
        placeholder=encoder(asked, checkpoint, every=False).placeholder,
        pooling=loaded.pooling,
        ends=end_tokens(checkpoint),
    )
    rows = groups(encoded(flags).val, checkpoint, asked)
    found = []
    for start in range(0, len(rows), 3):
        batch = collate([rows[Pick(i)] for i in range(start, min(start + 3, len(rows)))])
        with torch.no_grad():
            values = group_rewards(loaded.model(**reward_inputs(batch)), batch)
        found += values[batch["present"]].tolist()
    return float(np.mean(found))


def keys_of(checkpoint: Path) -> list[str]:
    """Names of the tensors in the model's or adapter's own files."""
    found = []
    for path in checkpoint.glob("*model*.safetensors"):
        with safe_open(path, "pt") as file:
            found += list(file.keys())
    return found


def test_other_training_does_not_start_from_a_classifier(pairs: Path, tmp_path: Path) -> None:
    ran = train("rlhf", tmp_path / "rm", **RM | {"sft_type": "full"}, **SAVED, dataset=pairs)
    with pytest.raises(UserError, match="is a reward model"):
        train("rlhf", tmp_path / "dpo", rlhf_type="dpo", model=ran.checkpoint, dataset=pairs, max_steps=1)


def test_what_is_no_reward_model_does_not_score(pairs: Path, tmp_path: Path) -> None:
    ran = train("rlhf", tmp_path, **RM | {"rlhf_type": "dpo"}, **SAVED, dataset=pairs)
    with pytest.raises(UserError, match="is not a reward model"):
        load_reward_model(ran.checkpoint)


# -- going on ---------------------------------------------------------------------------------------------------------

GOING_ON: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora, head dropout": {"rm_head_dropout": 0.2, "rm_pooling": "max"},
    "full": {"sft_type": "full", "learning_rate": 1e-3},
    "full, last": {"sft_type": "full", "learning_rate": 1e-3, "rm_pooling": "last"},
    "apo_rm": {"rlhf_type": "apo_rm"},
}


@pytest.mark.parametrize("name", GOING_ON)
def test_stopped_and_continued_equals_never_stopped(name: str, pairs: Path, lists: Path, tmp_path: Path) -> None:
    flags = RM | GOING_ON[name] | {"dataset": lists if name == "apo_rm" else pairs, "batch_size": 4}
    flags |= {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "save_total_limit": 9}
    whole = train("rlhf", tmp_path / "whole", **flags)
    rest = train("rlhf", tmp_path / "rest", **flags, resume_from_checkpoint=whole.folder / "checkpoint-3")
    assert rest.losses == whole.losses[3:]
    assert rest.column("grad_norm") == whole.column("grad_norm")[3:]
    assert set(rest.checkpoint.glob("value_head*")) or name == "full"
    mine, theirs = read_head(rest.checkpoint), read_head(whole.checkpoint)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_the_best_checkpoint_brings_its_head(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A learning rate that ruins the model makes the first evaluation the best."""
    from swiftlike.pipelines import train as pipeline

    kept = []
    real = pipeline.build
    monkeypatch.setattr(pipeline, "build", lambda *args: kept.append(real(*args)) or kept[-1])
    flags = {**RM, "learning_rate": 3.0, "dataset": pairs, "val_dataset": pairs, "save_total_limit": 9}
    flags |= {
        "max_steps": 4,
        "eval_steps": 1,
        "save_steps": 1,
        "save_strategy": "steps",
        "load_best_model_at_end": True,
        "on_nan": "skip",  # ruined it is
    }
    ran = train("rlhf", tmp_path, **flags)
    best = Path(kept[0].state.best_model_checkpoint)
    assert best != ran.checkpoint
    head = base_of(kept[0].model).v_head.summary.weight
    assert torch.equal(head, read_head(best)["summary.weight"])
    assert not torch.equal(head, read_head(ran.checkpoint)["summary.weight"])
