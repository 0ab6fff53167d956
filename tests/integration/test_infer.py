"""`swiftlike infer` with real tiny models: rows, kills and resumes, several processes, rewards, standard input."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from swiftlike.cli.commands import load
from swiftlike.cli.layers import build_run
from swiftlike.core.errors import UserError
from swiftlike.engines.text import whole
from swiftlike.pipelines.infer.command import run

from .runs import free_port, train, write_rows

Answers = dict[int, dict[str, Any]]
GREEDY = {"temperature": 0, "max_new_tokens": 12}


def words(flags: dict[str, Any]) -> list[str]:
    found = []
    for name, value in flags.items():
        values = value if isinstance(value, list) else [value]
        found += [f"--{name}", *(str(one).lower() if isinstance(one, bool) else str(one) for one in values)]
    return found


def read(path: Path) -> Answers:
    """Row to its line; a row that is there twice fails."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found = {line["index"]: line for line in lines}
    assert len(found) == len(lines)
    return found


def infer(path: Path, **flags: Any) -> Answers:
    """Answer rows in this process."""
    asked, _ = build_run(load("infer"), words({"result_path": path, **flags}), {})
    run(asked)
    return read(path)


def command(**flags: Any) -> list[str]:
    return [sys.executable, "-m", "swiftlike", "infer", *words(flags)]


@pytest.fixture(scope="module")
def policy(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA checkpoint after two steps."""
    flags = {"rlhf_type": "dpo", "model_type": "tiny-llama", "max_steps": 2, "save_strategy": "steps", "save_steps": 2}
    out = tmp_path_factory.mktemp("policy")
    return train("rlhf", out, **flags, dataset=pairs, learning_rate=1e-2).checkpoint


@pytest.fixture(scope="module")
def greedy(policy: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """The answers to every row, computed together."""
    return infer(tmp_path_factory.mktemp("greedy") / "a.jsonl", ckpt_dir=policy, val_dataset=pairs, **GREEDY)


def responses(answers: Answers) -> dict[int, str]:
    return {index: line["response"] for index, line in answers.items()}


# -- what is answered -------------------------------------------------------------------------------------------------


def test_every_row_is_answered_and_its_line_says_what_was_asked(pairs: Path, greedy: Answers) -> None:
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    assert sorted(greedy) == list(range(len(rows)))
    for index, row in enumerate(rows):
        line = greedy[index]
        asked, said = line["messages"]
        assert asked == {"role": "user", "content": row["query"]}
        assert said == {"role": "assistant", "content": line["response"]}
        assert (line["labels"], line["images"], line["error"]) == (row["response"], [], None)


def test_answers_are_those_of_plain_transformers(policy: Path, greedy: Answers) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = json.loads((policy / "adapter_config.json").read_text())["base_model_name_or_path"]
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), policy).eval()
    for line in greedy.values():
        text = f"<|im_start|>user\n{line['messages'][0]['content']}<|im_end|>\n<|im_start|>assistant\n"
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        made = model.generate(**ids, do_sample=False, max_new_tokens=12)[0, ids["input_ids"].shape[1] :]
        assert whole(tokenizer, made.tolist()) == line["response"]


@pytest.mark.parametrize("flags", [{"merge_lora": True}, {"max_batch_size": 1}, {"num_beams": 1, "do_sample": False}])
def test_how_it_is_computed_does_not_change_the_answers(
    policy: Path, pairs: Path, greedy: Answers, tmp_path: Path, flags: dict[str, Any]
) -> None:
    others = infer(tmp_path / "a.jsonl", ckpt_dir=policy, val_dataset=pairs, **GREEDY, **flags)
    assert responses(others) == responses(greedy)


def test_an_adapter_with_a_name_is_the_one_that_answers(
    policy: Path, pairs: Path, greedy: Answers, tmp_path: Path
) -> None:
    others = infer(tmp_path / "a.jsonl", adapters=f"mine={policy}", val_dataset=pairs, **GREEDY)
    assert responses(others) == responses(greedy)
    bare = infer(tmp_path / "b.jsonl", model_type="tiny-llama", val_dataset=pairs, **GREEDY)
    assert responses(bare) != responses(greedy)


def test_results_go_beside_the_checkpoint(policy: Path, pairs: Path) -> None:
    asked, _ = build_run(load("infer"), words({"ckpt_dir": policy, "val_dataset": f"{pairs}#2", **GREEDY}), {})
    assert run(asked) == 0
    (path,) = (policy / "infer_result").glob("*.jsonl")
    assert sorted(read(path)) == [0, 1]


def test_log_probabilities_of_tokens(policy: Path, pairs: Path, tmp_path: Path) -> None:
    flags = {"ckpt_dir": policy, "val_dataset": f"{pairs}#3", "logprobs": True, "top_logprobs": 2, **GREEDY}
    for line in infer(tmp_path / "a.jsonl", **flags).values():
        tokens = line["logprobs"]["content"]
        assert 0 < len(tokens) <= 12
        for token in tokens:
            assert len(token["top_logprobs"]) == 2
            assert token["logprob"] == pytest.approx(token["top_logprobs"][0]["logprob"])
            assert -20 < token["logprob"] < 0


# -- bad rows ---------------------------------------------------------------------------------------------------------


def test_bad_pictures_and_rows_stay_in_their_lines(tmp_path: Path) -> None:
    from PIL import Image

    Image.radial_gradient("L").convert("RGB").save(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:900])
    rows = [{"query": f"<image>What is {name}?", "images": [f"{name}.png"]} for name in ("good", "cut", "none")]
    rows += [{"query": "And without one?"}, {"query": "<|image_pad|>"}, {"query": "long " * 9000}, {"query": ""}]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    found = infer(tmp_path / "a.jsonl", model_type="tiny-qwen2_5-vl", val_dataset=path, max_model_len=500, **GREEDY)
    errors = {index: line["error"] for index, line in found.items() if line["error"]}
    assert sorted(found) == list(range(7))
    assert sorted(errors) == [1, 2, 4, 5, 6]
    assert "image is broken" in errors[1]
    assert "image is missing" in errors[2]
    assert "placeholder in text" in errors[4]
    assert "prompt is too long" in errors[5]
    assert "empty prompt" in errors[6]
    assert all(found[index]["response"] is None for index in errors)
    assert found[0]["images"] == [str(tmp_path / "good.png")]
    assert found[0]["response"]


def test_a_picture_that_breaks_after_it_was_looked_at_fails_alone(tmp_path: Path) -> None:
    """Its header and its end are good, its middle is not: that shows when it is decoded."""
    from PIL import Image

    Image.effect_noise((400, 400), 90).convert("RGB").save(tmp_path / "good.png")
    whole = bytearray((tmp_path / "good.png").read_bytes())
    whole[2000:3000] = bytes(1000)
    (tmp_path / "rotten.png").write_bytes(whole)
    rows = [{"query": "<image>What?", "images": [name]} for name in ("good.png", "rotten.png", "good.png")]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    found = infer(tmp_path / "a.jsonl", model_type="tiny-qwen2_5-vl", val_dataset=path, **GREEDY)
    assert [bool(found[index]["error"]) for index in range(3)] == [False, True, False]
    assert "image is broken" in found[1]["error"]


# -- killed and gone on with ------------------------------------------------------------------------------------------

SAMPLED = {"temperature": 1, "seed": 5, "max_new_tokens": 60, "model_type": "tiny-llama", "max_batch_size": 4}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"query": f"Tell me about number {n}." + " Please." * (n % 9)} for n in range(300)]
    return write_rows(tmp_path_factory.mktemp("many") / "many.jsonl", rows)


def kill_in_the_middle(argv: list[str], path: Path, **env: str) -> None:
    """Start, wait for answers, kill -9."""
    process = subprocess.Popen(argv, env=os.environ | env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if path.is_file() and path.read_bytes().count(b"\n") > 20:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    _, text = process.communicate()
    assert process.returncode == -9, text.decode()


def test_a_killed_run_goes_on_without_repeating_or_losing_a_row(many: Path, tmp_path: Path) -> None:
    flags = {"val_dataset": many, **SAMPLED}
    path = tmp_path / "a.jsonl"
    kill_in_the_middle(command(**flags, result_path=path), path)
    before = path.read_bytes()
    done = before.count(b"\n")
    assert 20 < done < 300
    with path.open("ab") as file:
        file.write(b'{"index": 299, "messages": [{"ro')
    found = infer(path, **flags | {"max_batch_size": 8})
    assert path.read_bytes().startswith(before[: before.rindex(b"\n") + 1])
    assert sorted(found) == list(range(300))
    assert responses(found) == responses(infer(tmp_path / "whole.jsonl", **flags | {"max_batch_size": 32}))
    again = path.read_bytes()
    assert infer(path, **flags) == found
    assert path.read_bytes() == again


def test_other_data_or_another_model_does_not_go_on(many: Path, policy: Path, pairs: Path, tmp_path: Path) -> None:
    flags = {"val_dataset": f"{many}#3", "model_type": "tiny-llama", **GREEDY}
    path = tmp_path / "a.jsonl"
    infer(path, **flags)
    before = path.read_bytes()
    for change, name in (
        ({"val_dataset": f"{pairs}#3"}, "data"),
        ({"max_new_tokens": 13}, "sampling"),
        ({"system": "Be kind."}, "system"),
        ({"model_type": "tiny-qwen3"}, "model"),
        ({"adapters": policy}, "adapters"),
    ):
        with pytest.raises(UserError, match="holds answers of another run") as caught:
            infer(path, **flags | change)
        assert any(line.startswith(f"{name}: ") for line in caught.value.problems)
    assert path.read_bytes() == before


@pytest.mark.slow
def test_several_processes_share_the_rows(pairs: Path, policy: Path, greedy: Answers, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    argv = command(ckpt_dir=policy, val_dataset=pairs, result_path=path, **GREEDY)
    env = os.environ | {"NPROC_PER_NODE": "2", "MASTER_PORT": str(free_port())}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert responses(read(path)) == responses(greedy)
    assert done.stderr.count("finished: 19 rows, 0 errors") == 1


# -- reward models ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reward(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    flags = {"rlhf_type": "rm", "model_type": "tiny-llama", "max_steps": 2, "save_strategy": "steps", "save_steps": 2}
    out = tmp_path_factory.mktemp("reward")
    return train("rlhf", out, **flags, dataset=pairs, learning_rate=1e-2).checkpoint


def test_a_reward_model_scores_every_answer(
    reward: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [json.loads(line) for line in pairs.read_text().splitlines()][:3]
    path = write_rows(tmp_path / "rows.jsonl", [*rows, {"query": "No answer here."}])
    found = infer(tmp_path / "a.jsonl", ckpt_dir=reward, val_dataset=path)
    for index, row in enumerate(rows):
        assert found[index]["completions"] == [row["response"], row["rejected_response"]]
        assert len(set(found[index]["rewards"])) == 2
    assert found[3]["rewards"] is None
    assert "no answer to score" in found[3]["error"]

    typed = "".join(f"{row['query']}\n{row['response']}\n" for row in rows)
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    asked, _ = build_run(load("infer"), words({"ckpt_dir": reward}), {})
    capsys.readouterr()
    assert run(asked) == 0
    shown = [float(line.removeprefix("reward: ")) for line in capsys.readouterr().out.splitlines()]
    assert shown == pytest.approx([found[index]["rewards"][0] for index in range(3)], abs=1e-4)


# -- standard input ---------------------------------------------------------------------------------------------------


def test_lines_of_standard_input_are_prompts_of_their_own(
    policy: Path,
    pairs: Path,
    greedy: Answers,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [json.loads(line) for line in pairs.read_text().splitlines()][:3]
    kept = tmp_path / "kept.jsonl"
    asked, _ = build_run(load("infer"), words({"ckpt_dir": policy, "result_path": kept, **GREEDY}), {})
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{row['query']}\n\n" for row in rows)))
    capsys.readouterr()
    assert run(asked) == 0
    expected = [greedy[index]["response"] for index in range(3)]
    assert capsys.readouterr().out == "".join(f"{text}\n" for text in expected)
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [line["response"] for line in lines] == expected
    assert [line["messages"][0]["content"] for line in lines] == [row["query"] for row in rows]


@pytest.mark.parametrize(("typed", "code"), [("hi\n<image>x.png</image>\n", 1), ("\n\n", UserError)])
def test_what_standard_input_cannot_be(typed: str, code: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    asked, _ = build_run(load("infer"), words({"model_type": "tiny-llama", **GREEDY}), {})
    if isinstance(code, int):
        assert run(asked) == code
    else:
        with pytest.raises(code, match="standard input is empty"):
            run(asked)
