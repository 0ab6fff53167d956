"""`swiftlike filter_pairs`: which pairs are left, what is written of them, and that training takes it as it is."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from swiftlike.cli.app import perform
from swiftlike.cli.commands import load
from swiftlike.cli.layers import build_run
from swiftlike.core.errors import UserError
from swiftlike.data.encode import Encoder
from swiftlike.data.load import load_rows
from swiftlike.data.template import Template
from swiftlike.datasets_registry.shapes import to_row
from swiftlike.model_registry import TEMPLATES
from swiftlike.pipelines.filter_pairs import counter, first_pair, templated, written
from swiftlike.pipelines.prepare import open_checkpoint
from tests import families

SHARED = Path(os.environ.get("SWIFTLIKE_SHARED") or Path(__file__).parents[4] / "shared") / "data"
RANKED = SHARED / "alpaca_eval_ranked" / "ranked.jsonl.gz"
COPIES = ("train_dataset", "train_dataset_remove_trunc", "train_dataset_filter_urls")
SYSTEM, USER = {"role": "system", "content": ""}, {"role": "user", "content": "Name a fruit."}


def bot(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


CHAT = {"prompt": "Name a fruit.", "chosen": [SYSTEM, USER, bot("A plum.")], "rejected": [SYSTEM, USER, bot("A saw.")]}
LONGER = {
    "chosen": [USER, bot("A plum."), {"role": "user", "content": "Another."}, bot("A pear.")],
    "rejected": [USER, bot("A saw.")],
}
SWIFT = {"system": "Be brief.", "query": "Name a tree.", "response": "Oak.", "rejected_response": "Rope."}
EXO = {"prompt": "Name a bird.", "completions": ["Owl.", "Bat.", "Cow."], "rewards": [1.0, 0.5, -1.0]}
HH = {"chosen": "\n\nHuman: Say hi.\n\nAssistant: hi", "rejected": "\n\nHuman: Say hi.\n\nAssistant: no"}


def put(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in rows))
    return path


def get(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def kept(place: Path, *rows: Any, flags: tuple[str, ...] = (), model: str = "tiny-llama") -> list[dict[str, Any]]:
    """What the command leaves of these rows; its exit code is 1 where that is nothing."""
    data, output = put(place / "rows.jsonl", *rows), place / "out" / "train.jsonl"
    output.unlink(missing_ok=True)
    code = perform("filter_pairs", [str(data), "--model_type", model, "--output", str(output), *flags])
    assert code == (not output.exists())
    return [] if code else get(output)


def checkpoint(place: Path) -> Any:
    words = ["x", "--model_type", "tiny-llama", "--output", f"{place}/o.jsonl"]
    run = build_run(load("filter_pairs"), words, {})[0]
    return open_checkpoint(run, weights=False)


# -- what is written --------------------------------------------------------------------------------------------------


def test_every_format_becomes_pairs_of_first_turns(tmp_path: Path) -> None:
    chat, longer, swift, exo, hh = kept(tmp_path, CHAT, LONGER, SWIFT, EXO, HH)
    assert chat == {side: CHAT[side] for side in ("chosen", "rejected")}
    assert longer == {"chosen": [USER, bot("A plum.")], "rejected": [USER, bot("A saw.")]}
    assert swift["chosen"] == [{"role": "system", "content": "Be brief."}, *swift["chosen"][1:2], bot("Oak.")]
    assert [exo[side][-1]["content"] for side in ("chosen", "rejected")] == ["Owl.", "Cow."]
    assert [turn["content"] for turn in hh["chosen"]] == ["Say hi.", "hi"]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"chosen": [USER, bot("a")], "rejected": [SYSTEM, USER, bot("b")]}, "different prompts"),
        ({"chosen": [USER, USER, bot("a")], "rejected": [USER, USER, bot("b")]}, "do not alternate"),
        ({"chosen": [USER, bot(" ")], "rejected": [USER, bot("b")]}, "empty answer"),
        ({"query": "q", "response": "a"}, "no pair"),
        ("no json", "not JSON"),
    ],
)
def test_rows_that_are_no_pairs_are_errors_of_their_own(tmp_path: Path, row: Any, why: str) -> None:
    assert len(kept(tmp_path, row, CHAT)) == 1
    (error,) = get(tmp_path / "out" / "train.errors.jsonl")
    assert error["origin"].endswith("rows.jsonl:1")
    assert why in error["error"]


def test_a_pair_whose_first_answers_are_equal_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    later = {"history": [["Hello.", "Hi!"]], **SWIFT}
    with caplog.at_level("INFO"):
        assert len(kept(tmp_path, later, CHAT, EXO | {"rewards": [1, 1, 1]})) == 1
    assert "1 the first answers are equal (first: " in caplog.text
    assert "1 a tie: all scores are equal" in caplog.text
    assert not (tmp_path / "out" / "train.errors.jsonl").exists()


def test_pictures_pass_through_uncounted(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("a", "b"):
        Image.new("RGB", (600, 400)).save(tmp_path / f"{name}.png")
    row = {"query": "<image>What is it?", "response": "A plum.", "rejected_response": "A saw.", "images": ["a.png"]}
    own = row | {"rejected_images": ["b.png"]}
    gone = row | {"images": ["gone.png"]}
    flags = ("--max_length", "80", "--max_prompt_length", "40")
    (record,) = kept(tmp_path, row, own, gone, flags=flags, model="tiny-qwen2_5-vl")
    assert (tmp_path / "out" / record["images"][0]).samefile(tmp_path / "a.png")
    assert record["chosen"][0]["content"] == "<image>What is it?"
    errors = [one["error"] for one in get(tmp_path / "out" / "train.errors.jsonl")]
    assert ["different" in errors[0] or "pictures" in errors[0], "image is missing" in errors[1]] == [True, True]


# -- which are left ---------------------------------------------------------------------------------------------------


def test_limits_are_those_of_the_templated_prompt_and_of_each_answer(tmp_path: Path) -> None:
    """Exact at the border, for the prompt with its template and its first token, and for either answer."""
    found = checkpoint(tmp_path)
    count, (_, texts) = counter(found.template), first_pair(to_row(SWIFT, "pair")[0], templated(found.template))
    prompt, answers = count(texts["prompt"]), [count(texts[side]) for side in ("chosen", "rejected")]
    total = prompt + max(answers) + 32

    def left(total: int, prompt: int) -> int:
        flags = ("--max_length", str(total), "--max_prompt_length", str(prompt))
        return len(kept(tmp_path, SWIFT, SWIFT | {"query": "A"}, flags=flags))

    assert left(total, prompt) == 2
    assert left(total - 1, prompt - 1) == 1
    assert left(total - 1, prompt) == 0
    assert not (tmp_path / "out" / "train_dataset_remove_trunc.jsonl").exists()


@pytest.mark.parametrize(("name", "first"), [("aipo_mistral-instruct", "<s>[INST] "), ("zephyr", "<|user|>\n")])
def test_the_first_token_is_counted_where_the_template_has_one(name: str, first: str) -> None:
    template = Template(families.prefix_space_tokenizer("first"), TEMPLATES.get(name))
    text = templated(template)([USER])
    assert text.startswith(f"{first}Name a fruit.")
    ids = template.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert counter(template)(text) == len(ids)
    assert (ids[0] == template.tokenizer.bos_token_id) == first.startswith("<s>")


def test_links_and_copies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        SWIFT,
        SWIFT | {"response": "See https://a.b"},
        SWIFT | {"rejected_response": "See http://a.b"},
        SWIFT | {"query": "long " * 600, "response": "See http://a.b"},
    ]
    with caplog.at_level("INFO"):
        left = kept(tmp_path, *rows)
    copies = [get(tmp_path / "out" / f"{name}.jsonl") for name in COPIES]
    assert [len(copy) for copy in copies] == [4, 3, 2]
    assert left == copies[2]
    assert "read 4 rows, wrote 2" in caplog.text
    assert "1 a prompt of more than 512 tokens or an answer of more than 2016 (first: " in caplog.text
    assert f"1 a link in the chosen answer (first: {tmp_path / 'rows.jsonl'}:2)" in caplog.text
    both = ("--ignore_rejected", "false")
    assert len(kept(tmp_path, *rows, flags=both)) == 1
    none = ("--filter_urls", "false")
    assert kept(tmp_path, *rows, flags=none) == copies[1]
    assert not (tmp_path / "out" / f"{COPIES[2]}.jsonl").exists()


def test_without_copies(tmp_path: Path) -> None:
    kept(tmp_path, CHAT, flags=("--keep_copies", "false"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train.jsonl"]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--output", "out.txt"], "ends in .jsonl"),
        (["--output", "train_dataset.jsonl"], "name of a copy"),
        (["--output", "rows.jsonl"], "lies in what is read"),
        (["--max_length", "540"], "leaves nothing for answers"),
        (["--max_length", "none"], "numbers of tokens"),
        (["--truncation_strategy", "left"], "--truncation_strategy is for training"),
        (["--model_type", "none"], "--model: whose tokens"),
    ],
)
def test_flags_that_do_not_fit_are_named(tmp_path, monkeypatch, flags: list[str], reason: str) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "rows.jsonl", CHAT)
    usual = {"--model_type": "tiny-llama", "--output": "train.jsonl"} | {flags[0]: flags[1]}
    with pytest.raises(UserError, match=reason):
        perform("filter_pairs", ["rows.jsonl", *(word for pair in usual.items() for word in pair)])
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_an_output_stays_and_copies_that_a_kill_left_are_replaced(tmp_path: Path) -> None:
    """The output is written last: without it everything else is of a run that was stopped."""
    kept(tmp_path, CHAT, SWIFT)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    words = [str(tmp_path / "rows.jsonl"), "--model_type", "tiny-llama"]
    with pytest.raises(UserError, match="exists already"):
        perform("filter_pairs", [*words, "--output", str(tmp_path / "out" / "train.jsonl")])
    put(tmp_path / "out" / "train_dataset.jsonl", "of another day")
    kept(tmp_path, CHAT, SWIFT)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


# -- as training reads it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["none", "aipo_mistral-instruct", "zephyr"])
def test_training_sees_the_tokens_that_were_filtered(tmp_path: Path, template: str) -> None:
    """Prompt text and answer of AIPO, encoded apart and joined, and the template's stop behind them."""
    kept(tmp_path, CHAT, LONGER, SWIFT, flags=("--template", template))
    words = ["--model_type", "tiny-llama", "--template", template, "--dataset", str(tmp_path / "out" / "train.jsonl")]
    run = build_run(load("rlhf"), [*words, "--rlhf_type", "aipo", "--output_dir", str(tmp_path)], {})[0]
    found = open_checkpoint(run, weights=False)
    encode, to_text = Encoder(template=found.template), templated(found.template)
    rows = load_rows(run.data, "pair", 0)
    assert rows.report.problems == []
    for row, source in zip(
        sorted(rows.train + rows.val, key=lambda one: one.origin), (CHAT, LONGER, SWIFT), strict=True
    ):
        _, texts = first_pair(to_row(source, "pair")[0], to_text)
        group = encode(row)
        for k, side in enumerate(("chosen", "rejected")):
            ids = [*group.prompt.ids.tolist(), *group.completions[k].ids.tolist()]
            assert found.tokenizer.decode(ids).startswith(texts["prompt"] + texts[side])
        assert written(row, tmp_path) == written(first_pair(row, to_text)[0], tmp_path)


@pytest.mark.skipif(not RANKED.is_file(), reason=f"no data at {RANKED}: set SWIFTLIKE_SHARED")
def test_real_answers(tmp_path: Path) -> None:
    """Pairs of the best and the worst of four real answers, held against the data itself."""
    output = tmp_path / "train.jsonl"
    limits = {"total": 1400, "prompt": 300}
    flags = ["--max_length", "1400", "--max_prompt_length", "300"]
    assert perform("filter_pairs", [str(RANKED), "--model_type", "tiny-llama", *flags, "--output", str(output)]) == 0
    template = checkpoint(tmp_path).template
    count, expected, dropped = counter(template), [], [0, 0]
    for record in map(json.loads, gzip.decompress(RANKED.read_bytes()).splitlines()):
        answers, scores = record["completions"], record["rewards"]
        chosen = answers[scores.index(max(scores))]
        rejected = answers[3 - scores[::-1].index(min(scores))]  # the last of the worst
        prompt = template.prompt_text(to_row({"query": record["prompt"], "response": "x"})[0].prompt)
        long = max(count(chosen), count(rejected)) > limits["total"] - limits["prompt"] - 32
        if long or count(prompt) > limits["prompt"]:
            dropped[0] += 1
        elif "http://" in chosen or "https://" in chosen:
            dropped[1] += 1
        else:
            expected.append((record["prompt"], chosen, rejected))
    rows = get(output)
    made = [
        (one["chosen"][-2]["content"], one["chosen"][-1]["content"], one["rejected"][-1]["content"]) for one in rows
    ]
    assert made == expected
    assert min(dropped) > 3
    assert [len(get(tmp_path / f"{name}.jsonl")) for name in COPIES] == [800, 800 - dropped[0], len(rows)]
