"""The same prompt has the same greedy tokens everywhere: `infer` with pt and with vLLM, vLLM's own server, plain
transformers; with an adapter, and with the weights that `export` merges it into."""

from __future__ import annotations

import json
import urllib.error
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from swiftlike.cli.app import perform
from swiftlike.engines.base import Request, Sampling
from swiftlike.models.load import auto_class
from tests.integration.runs import write_rows

from .using import FLAGS, GREEDY, NEEDS_VLLM, adapter, asked, by_transformers, engine, ids, parts, picture, served

pytestmark = NEEDS_VLLM
TEXT, VISION = "tiny-llama", ("tiny-llava1_6", "tiny-internvl3", "tiny-qwen2_5-vl")
Row = tuple[str, tuple[Path, ...]]


class Made(NamedTuple):
    """An adapter, and the same with the model in one folder."""

    adapter: Path
    merged: Path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folders of a built-in model, made once."""
    made: dict[str, Made] = {}

    def of(name: str) -> Made:
        if name not in made:
            parent = tmp_path_factory.mktemp(name)
            made[name] = Made(adapter(name, parent / "mine"), parent / "merged")
            words = ["--model_type", name, "--adapters", made[name].adapter, "--output_dir", made[name].merged]
            perform("export", [*map(str, words), "--merge_lora", "true", "--torch_dtype", "float32"])
        return made[name]

    return of


def questions(name: str, folder: Path) -> list[Row]:
    """Texts with their pictures."""
    small, wide = picture(folder, 150, 90), picture(folder, 300, 100, "green")
    rows: list[Row] = [("Which of these is a fruit: apple or hammer?", ()), ("Count to three.", ())]
    return rows if name == TEXT else [rows[0], ("What colour is it?", (small,)), ("Are they alike?", (small, wide))]


def requests(rows: list[Row], adapter: str = "") -> list[Request]:
    return [asked("<image>" * len(pictures) + text, *pictures, adapter=adapter) for text, pictures in rows]


def model(name: str, made: Made, merged: bool) -> dict[str, Any]:
    """Flags that name the model."""
    return {"model": str(made.merged)} if merged else {"model_type": name, "adapters": [str(made.adapter)]}


def by_infer(folder: Path, rows: list[Row], backend: str, given: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Answer, reason of its end and tokens as texts, for each row of a data set."""
    lines = [
        {"query": "<image>" * len(pictures) + text, "images": [str(one) for one in pictures]} for text, pictures in rows
    ]
    data, result = write_rows(folder / "rows.jsonl", lines), folder / f"{backend}-{len(list(folder.iterdir()))}.jsonl"
    words = ["--infer_backend", backend, "--val_dataset", str(data), "--result_path", str(result), *FLAGS]
    words += [word for key, value in given.items() for word in (f"--{key}", *([value] if key != "adapters" else value))]
    words += ["--max_new_tokens", str(GREEDY.max_new_tokens), "--temperature", "0", "--logprobs", "true"]
    assert perform("infer", words) == 0
    found = sorted(map(json.loads, result.read_text().splitlines()), key=lambda line: line["index"])
    tokens = ([token["token"] for token in line["logprobs"]["content"]] for line in found)
    return [(line["response"], line["finish_reason"], mine) for line, mine in zip(found, tokens, strict=True)]


@pytest.mark.parametrize("name", [TEXT, *VISION])
def test_infer_before_and_after_merging(name: str, folders: Any, tmp_path: Path) -> None:
    made, rows = folders(name), questions(name, tmp_path)
    with engine("pt", **model(name, made, merged=False)) as pt:
        net = auto_class(made.merged).from_pretrained(made.merged, dtype=torch.float32).eval()
        wanted = [by_transformers(pt, one, net) for one in requests(rows)]
        assert [by_transformers(pt, one) for one in requests(rows)] == wanted
        show = pt.prompts.template.tokenizer.decode
        tokens = [[show([token], clean_up_tokenization_spaces=False) for token in one] for one in wanted]
    cases = [("pt", False), ("pt", True), ("vllm", True)] + ([("vllm", False)] if name == TEXT else [])
    found = [by_infer(tmp_path, rows, backend, model(name, made, merged)) for backend, merged in cases]
    assert [one[2] for one in found[0]] == tokens
    assert all(one == found[0] for one in found[1:])


@pytest.mark.parametrize("name", [TEXT, *VISION])
def test_server_with_an_adapter(name: str, folders: Any, tmp_path: Path) -> None:
    """The same tokens in the prompt, and the same answer, of the adapter and of the base beside it."""
    made, rows = folders(name), questions(name, tmp_path)
    cases = [(which, row) for which in ("", "mine") for row in rows]
    with engine("pt", model_type=name, adapters=[f"mine={made.adapter}"]) as pt:
        wanted = answers(pt, [requests([row], which)[0] for which, row in cases])
    words = ["--model_type", name, "--adapters", f"mine={made.adapter}", "--served_model_name", "base"]
    with served(*words) as chat:
        found = [chat(parts(text, *pictures), model=which or "base") for which, (text, pictures) in cases]
        with pytest.raises(urllib.error.HTTPError) as refused:
            chat("x", model="base", messages=[{"role": "assistant", "content": "x"}])
    assert [said(one) for one in found] == wanted
    assert refused.value.code == 400


def test_server_with_merged_weights(folders: Any, tmp_path: Path) -> None:
    """Answers of all lengths: where the last character is cut, no part of it is shown."""
    made, ((text, _), *_) = folders(TEXT), questions(TEXT, tmp_path)
    lengths = range(1, 17)
    with engine("pt", model=str(made.merged)) as pt:
        most = [asked(text, sampling=Sampling(temperature=0, max_new_tokens=length)) for length in lengths]
        wanted = answers(pt, most)
    with served("--model", str(made.merged), "--served_model_name", "merged") as chat:
        found = [chat(text, length, model="merged") for length in lengths]
    assert [said(one) for one in found] == wanted


def answers(pt: Any, asked: list[Request]) -> list[tuple[list[int], list[int], str]]:
    """Tokens of the prompt, tokens and text of the answer."""
    prompts, found = [list(pt.prompts.ids(one).ids) for one in asked], pt.generate(asked)
    texts = [one.completions[0].text for one in found]
    return [(prompt, list(made), text) for prompt, made, text in zip(prompts, ids(found), texts, strict=True)]


def said(reply: dict[str, Any]) -> tuple[list[int], list[int], str]:
    """The same of the server's reply."""
    (choice,) = reply["choices"]
    return reply["prompt_token_ids"], choice["token_ids"], choice["message"]["content"]
