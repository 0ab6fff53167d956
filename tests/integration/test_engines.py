"""Checkpoints of real trainings, opened from the flags of a command and answering: pt engine and reward models."""

from __future__ import annotations

import dataclasses as dc
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from swiftlike.args import consistency
from swiftlike.args.generate import EngineArgs, GenerateArgs, UseArgs
from swiftlike.args.model import ModelArgs
from swiftlike.cli.layers import build_run
from swiftlike.core.declare import Command
from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run
from swiftlike.datasets_registry.row import Image, Message, Turns
from swiftlike.engines.base import Answer, Request, Sampling
from swiftlike.engines.row import completion
from swiftlike.models.load import auto_class
from swiftlike.pipelines.serving import Opened, open_engine, open_model, open_scorer, prompts_of, sampling

from .runs import Ran, train, write_rows

USE = Command(
    name="infer",
    summary="",
    target="",
    sections={"use": UseArgs, "model": ModelArgs, "generate": GenerateArgs, "engine": EngineArgs},
    check=consistency.using,
)
TEXT, VISION = ("tiny-llama", "tiny-qwen3"), ("tiny-llava1_6", "tiny-internvl3", "tiny-qwen2_5-vl")
SAVED = {"save_strategy": "steps", "rlhf_type": "dpo", "learning_rate": 1e-2, "max_steps": 3}
GREEDY = Sampling(temperature=0.0, max_new_tokens=12)


def asked(*words: Any) -> Run:
    return build_run(USE, [str(word) for word in words], {})[0]


def opened(*words: Any) -> tuple[Any, Opened]:
    run = asked(*words)
    found = open_model(run)
    return open_engine(run, found), found


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, pairs: Path, mixed: Path) -> Any:
    """LoRA runs by model name, each made once."""
    made: dict[str, Ran] = {}

    def run(name: str) -> Ran:
        if name not in made:
            data = mixed if name in VISION else pairs
            out = tmp_path_factory.mktemp("runs")
            made[name] = train("rlhf", out, **SAVED, model_type=name, dataset=data, system="Be brief.")
        return made[name]

    return run


def requests_for(name: str, mixed: Path) -> list[Request]:
    talks = [Turns((Message("user", "Write about the lake. " * times),)) for times in (1, 5, 2)]
    if name in VISION:
        pictures = [Image(str(mixed.parent / f"{number}.png")) for number in range(3)]
        talks.append(Turns((Message("user", "<image>What is number 0?"),), (pictures[0],)))
        messages = ("<image><image>Which?", "The first.", "<image>And now?")
        roles = ("user", "assistant", "user")
        talks.append(Turns(tuple(Message(*one) for one in zip(roles, messages, strict=True)), tuple(pictures)))
    return [Request(prompt=talk, sampling=GREEDY) for talk in talks]


@torch.no_grad()
def plain(found: Opened, checkpoint: Path | None, requests: list[Request]) -> list[list[int]]:
    """The same ids through transformers and PEFT alone."""
    from peft import PeftModel

    model = auto_class(found.model_folder).from_pretrained(found.model_folder, dtype=torch.float32)
    if checkpoint is not None:
        model = PeftModel.from_pretrained(model, str(checkpoint))
    prompts, out = prompts_of(found.run, found), []
    for request in requests:
        prepared = prompts.ids(request)
        ids = torch.tensor([prepared.ids])
        more = prompts.adapter.join(prepared.pictures) if prepared.images else {}
        if prompts.adapter is not None and prompts.adapter.mrope:
            more["mm_token_type_ids"] = (ids == prompts.placeholder).int()
        made = model.eval().generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, **more
        )
        out.append(made[0, ids.shape[1] :].tolist())
    return out


def ids(answers: list[Answer]) -> list[list[int]]:
    assert [answer.error for answer in answers] == [""] * len(answers)
    return [list(answer.completions[0].ids) for answer in answers]


@pytest.mark.parametrize("name", [*TEXT, *VISION])
def test_lora_checkpoint_answers_as_transformers_does(name: str, trained: Any, mixed: Path) -> None:
    """Batched, alone, streamed, merged; by the checkpoint, by the run folder, as an adapter."""
    ran, requests = trained(name), requests_for(name, mixed)
    engine, found = opened("--ckpt_dir", ran.checkpoint)
    assert found.checkpoint.template.system == "Be brief."
    assert found.served == ran.checkpoint.name
    expected = plain(found, ran.checkpoint, requests)
    assert expected != plain(found, None, requests)
    assert ids(engine.generate(requests)) == expected
    assert [list(completion(list(engine.stream(one))).ids) for one in requests] == expected
    engine.close()
    for words in (("--ckpt_dir", ran.folder, "--merge_lora"), ("--adapters", ran.checkpoint)):
        engine, found = opened(*words)
        assert ids(engine.generate(requests)) == expected
        assert ids([engine.generate([dc.replace(requests[-1], adapter=found.served)])[0]]) == expected[-1:]
        engine.close()


@pytest.mark.parametrize("name", ["tiny-qwen3", "tiny-qwen2_5-vl"])
def test_adapters_by_name_in_one_batch(name: str, trained: Any, pairs: Path, mixed: Path, tmp_path: Path) -> None:
    data = mixed if name in VISION else pairs
    one = trained(name).checkpoint
    two = train("rlhf", tmp_path, **SAVED | {"learning_rate": 5e-2}, model_type=name, dataset=data).checkpoint
    engine, found = opened("--adapters", f"one={one}", f"v2.0={two}")
    assert engine.adapters == ("one", "v2.0")
    assert found.served == ""
    requests = requests_for(name, mixed)
    named = {"": None, "one": one, "v2.0": two}
    expected = {adapter: plain(found, folder, requests) for adapter, folder in named.items()}
    assert len({str(made) for made in expected.values()}) == 3
    everything = [(adapter, i) for i in range(len(requests)) for adapter in named]
    answers = engine.generate([dc.replace(requests[i], adapter=adapter) for adapter, i in everything])
    assert ids(answers) == [expected[adapter][i] for adapter, i in everything]
    engine.close()


def test_adapters_that_cannot_share_a_batch_take_turns(pairs: Path, tmp_path: Path) -> None:
    """PEFT cannot mix DoRA adapters."""
    flags = SAVED | {"model_type": "tiny-llama", "dataset": pairs, "use_dora": True}
    one, two = (
        train("rlhf", tmp_path / str(rate), **flags | {"learning_rate": rate}).checkpoint for rate in (1e-2, 5e-2)
    )
    engine, found = opened("--adapters", f"one={one}", f"two={two}")
    requests = requests_for("tiny-llama", tmp_path)
    expected = {name: plain(found, folder, requests) for name, folder in {"": None, "one": one, "two": two}.items()}
    order = [(name, i) for i in range(len(requests)) for name in expected]
    answers = engine.generate([dc.replace(requests[i], adapter=name) for name, i in order])
    assert ids(answers) == [expected[name][i] for name, i in order]
    engine.close()


def test_whole_model_checkpoint(pairs: Path, tmp_path: Path) -> None:
    flags = SAVED | {"sft_type": "full", "learning_rate": 1e-3, "model_type": "tiny-llama", "dataset": pairs}
    ran = train("rlhf", tmp_path, **flags, template="zephyr")
    engine, found = opened("--ckpt_dir", ran.folder)
    assert found.model_folder == ran.checkpoint
    assert (found.checkpoint.source.template, found.adapters) == ("zephyr", {})
    requests = requests_for("tiny-llama", tmp_path)
    assert ids(engine.generate(requests)) == plain(found, None, requests)
    engine.close()


def test_picture_limits_are_those_of_the_training(mixed: Path, tmp_path: Path) -> None:
    flags = SAVED | {"model_type": "tiny-qwen2_5-vl", "dataset": mixed, "max_steps": 1, "max_image_tokens": 4}
    ran = train("rlhf", tmp_path, **flags)
    request = requests_for("tiny-qwen2_5-vl", mixed)[-1]
    counts = {}
    for words in (("--ckpt_dir", ran.checkpoint), ("--model", "tiny-qwen2_5-vl")):
        found = open_model(asked(*words))
        prompts = prompts_of(found.run, found)
        counts[words[0]] = list(prompts.ids(request).ids).count(prompts.placeholder)
    assert counts["--ckpt_dir"] <= 3 * 4 < counts["--model"]


def test_sft_prompts_encode_earlier_answers_on_their_own(pairs: Path, tmp_path: Path) -> None:
    ran = train("sft", tmp_path, model_type="tiny-llama", dataset=pairs, max_steps=1, save_strategy="steps")
    found = open_model(asked("--ckpt_dir", ran.checkpoint))
    assert prompts_of(found.run, found).every
    other = open_model(asked("--model", "tiny-llama"))
    assert not prompts_of(other.run, other).every


# -- reward models ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("pooling", ["eos", "mean"])
def test_rewards_are_those_of_the_evaluation(kind: str, pooling: str, pairs: Path, tmp_path: Path) -> None:
    rate = 1e-2 if kind == "lora" else 1e-3
    flags = SAVED | {"rlhf_type": "rm", "learning_rate": rate, "sft_type": kind, "rm_pooling": pooling}
    ran = train("rlhf", tmp_path, **flags, model_type="tiny-llama", dataset=pairs, val_dataset=pairs)
    run = asked("--ckpt_dir", ran.folder)
    found = open_model(run)
    assert found.reward
    with pytest.raises(UserError, match="reward model"):
        open_engine(run, found)
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    talks = [
        Turns((Message("user", row["query"]), Message("assistant", row[key])))
        for key in ("response", "rejected_response")
        for row in rows
    ]
    seen: dict[int, Any] = {}
    scores = open_scorer(run, found).score([*talks, Turns(talks[0].messages[:1])], seen.__setitem__)
    assert seen == dict(enumerate(scores))
    assert "not the assistant's" in scores.pop()
    chosen, rejected = np.split(np.array(scores), 2)
    last = ran.evaluations[-1]
    assert chosen.mean() == pytest.approx(last["eval_rewards/chosen"], abs=1e-5)
    assert rejected.mean() == pytest.approx(last["eval_rewards/rejected"], abs=1e-5)
    assert (chosen > rejected).mean() == pytest.approx(last["eval_accuracy"])


def test_rewards_of_pictures(mixed: Path, tmp_path: Path) -> None:
    flags = SAVED | {"rlhf_type": "rm", "model_type": "tiny-internvl3"}
    ran = train("rlhf", tmp_path, **flags, dataset=mixed, val_dataset=mixed)
    run = asked("--ckpt_dir", ran.checkpoint)
    talks = []
    for line in mixed.read_text().splitlines():
        row = json.loads(line)
        pictures = tuple(Image(str(mixed.parent / one)) for one in row.get("images", ()))
        talks.append(Turns((Message("user", row["query"]), Message("assistant", row["response"])), pictures))
    scores = open_scorer(run, open_model(run)).score(talks)
    assert np.mean(scores) == pytest.approx(ran.evaluations[-1]["eval_rewards/chosen"], abs=1e-5)
    broken = dc.replace(talks[0], images=(Image(b"broken"),))
    assert "image" in open_scorer(run, open_model(run)).score([broken])[0]


# -- flags ------------------------------------------------------------------------------------------------------------


def test_flags_become_sampling() -> None:
    run = asked("--model", "tiny-llama", "--max_new_tokens", 5, "--top_k", 3, "--stop", "a", "b", "--seed", 1)
    assert sampling(run) == Sampling(max_new_tokens=5, top_k=3, stop=("a", "b"), seed=1)
    assert sampling(asked("--model", "tiny-llama", "--do_sample", "false", "--temperature", 0.5)).temperature == 0
    assert sampling(asked("--model", "tiny-llama", "--do_sample", "true")).temperature == 1
    assert sampling(asked("--model", "tiny-llama")).temperature is None


def test_longest_context() -> None:
    engine, _ = opened("--model", "tiny-llama", "--max_model_len", 64)
    assert engine.context == 64
    with pytest.raises(UserError, match="--max_model_len 9999: this model was made for 4096 tokens"):
        opened("--model", "tiny-llama", "--max_model_len", 9999)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "no model: give --ckpt_dir"),
        (["--ckpt_dir", "{tmp}/nowhere"], "--ckpt_dir: no folder"),
        (["--ckpt_dir", "{tmp}"], "is no checkpoint"),
        (["--ckpt_dir", "{tmp}/whole", "--model", "tiny-llama"], "is a whole model; give one of them"),
        (["--ckpt_dir", "{tmp}/whole", "--merge_lora"], "--merge_lora merges one adapter; there are none"),
        (["--model", "tiny-llama", "--adapters", "{tmp}"], "has no adapter_config.json"),
        (["--model", "tiny-llama", "--adapters", "a={tmp}/x"], "--adapters: no folder"),
        (["--adapters", "a={tmp}/lora", "a={tmp}/lora"], "the name 'a' is given twice"),
        (["--adapters", "a={tmp}/lora", "b={tmp}/lora", "--merge_lora"], "there are 2"),
        (["--adapters", "={tmp}/lora"], "an adapter is a folder, or name=folder"),
        (["--model", "tiny-llama", "--do_sample", "true", "--temperature", "0"], "opposite"),
    ],
)
def test_what_does_not_go_together_is_said_at_once(words: list[str], reason: str, tmp_path: Path) -> None:
    for folder, file in (("whole", "config.json"), ("lora", "adapter_config.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text("{}")
    with pytest.raises(UserError, match=reason):
        asked(*(word.format(tmp=tmp_path) for word in words))


def test_flags_of_a_checkpoint_are_restored(trained: Any) -> None:
    ran = trained("tiny-llama")
    for words in (("--ckpt_dir", ran.checkpoint), ("--ckpt_dir", ran.folder), ("--adapters", f"a={ran.checkpoint}")):
        run = asked(*words)
        assert (run.model.model_type, run.model.system) == ("tiny-llama", "Be brief.")
    run = asked("--ckpt_dir", ran.checkpoint, "--system", "")
    assert run.model.system == ""


def test_names_of_adapters(trained: Any, tmp_path: Path) -> None:
    checkpoint = trained("tiny-llama").checkpoint
    found = open_model(asked("--ckpt_dir", checkpoint, "--adapters", f"other={checkpoint}"))
    assert list(found.adapters) == [checkpoint.name, "other"]
    assert found.served == checkpoint.name
    assert open_model(asked("--adapters", f"a={checkpoint}")).served == ""
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in checkpoint.glob("adapter_*"):
        (bare / file.name).write_bytes(file.read_bytes())
    assert open_model(asked("--adapters", bare)).model_folder == found.model_folder
    write_rows(bare / "adapter_config.json", [{"base_model_name_or_path": None}])
    with pytest.raises(UserError, match="does not say which model"):
        open_model(asked("--adapters", bare))
