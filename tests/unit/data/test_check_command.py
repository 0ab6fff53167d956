"""`swiftlike check` as the pipeline that the command line calls."""

from __future__ import annotations

import dataclasses as dc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swiftlike.args.check import CheckArgs
from swiftlike.args.model import ModelArgs
from swiftlike.core.merge import Run
from swiftlike.data.load import load_rows
from swiftlike.pipelines.check import run

from .conftest import pair, picture


def checked(data: Any, model: ModelArgs = ModelArgs(), **values: Any) -> int:  # noqa: B008 - frozen
    return run(Run("check", {"data": data, "check": CheckArgs(**values), "model": model}))


def accounts(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The data sets of a --json report."""
    return json.loads(capsys.readouterr().out)["datasets"]


def test_every_bad_row_is_named_and_the_exit_code_tells(
    args: Callable[..., Any], jsonl: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "good.png")
    rows = [pair(0, images=["good.png"]), pair(1, images=["gone.png"]), "{", *[pair(n) for n in range(2, 40)]]
    path = jsonl(rows + ["]"] * 30)
    assert checked(args(path)) == 1
    out = capsys.readouterr().out
    assert f"{path}:2: image is missing: {tmp_path / 'gone.png'}\n" in out
    assert sum(line.startswith(f"{path}:") for line in out.splitlines()) >= 32
    assert "31 not JSON" in out
    assert "pictures: 1 different, from 32 x 24 to 32 x 24" in out
    assert checked(args(jsonl([pair(1), pair(2)]))) == 0


def test_kinds_by_objective_and_json(
    args: Callable[..., Any], jsonl: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = jsonl([{"query": "q", "response": "a"}])
    assert checked(args(path)) == 0
    assert checked(args(path), rlhf_type="dpo") == 1
    assert "missing is a rejected answer" in capsys.readouterr().out
    assert checked(args(path, f"{path}#1"), json=True) == 0
    content = json.loads(capsys.readouterr().out)
    assert [one["train"] for one in content["datasets"]] == [1, 1]
    assert content["duplicates"] == 0


def test_no_model_no_torch(args: Callable[..., Any], jsonl: Callable[..., Path]) -> None:
    """Looking at data must stay quick: neither torch nor transformers nor datasets is loaded for it."""
    import subprocess

    path = jsonl([pair(1)])
    code = (
        "import sys\nfrom swiftlike.args.data import DataArgs\nfrom swiftlike.pipelines.check import examine\n"
        f"examine(DataArgs(dataset=[{str(path)!r}]), 'auto', 1)\n"
        "print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_draw_is_that_of_training(
    args: Callable[..., Any], jsonl: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = jsonl([pair(n) for n in range(10)])
    for item, ratio in ((f"{path}#25", 0.0), (f"{path}#25", 0.2), (f"{path}#4", 0.5)):
        data = args(item, dataset_test_ratio=ratio)
        assert checked(data, json=True) == 0
        (found,) = accounts(capsys)
        (trained,) = load_rows(data, "pair", 42).report.datasets
        names = ("asked", "found", "train", "val", "repeated")
        assert {name: found[name] for name in names} == {name: getattr(trained, name) for name in names}
    assert checked(args(f"{path}#25", dataset_test_ratio=0.0)) == 0
    assert "asked 25, found 10, got 25 rows, 15 of them repeats" in capsys.readouterr().out


def test_nothing_usable(
    args: Callable[..., Any], jsonl: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    empty = jsonl([], "empty.jsonl")
    assert checked(args(jsonl([pair(1)]), empty)) == 1
    assert "no usable rows: there are no records" in capsys.readouterr().out
    assert checked(args(f"{empty}#3")) == 1
    assert "no usable rows: there are no records" in capsys.readouterr().out
    assert checked(args(jsonl(["{"]))) == 1
    assert "no usable rows: none of the records is one" in capsys.readouterr().out


def test_a_label_that_is_no_verdict(
    args: Callable[..., Any], jsonl: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    answer = {"query": "q", "response": "a"}
    assert checked(args(jsonl([answer | {"label": 1}], "odd.jsonl"), jsonl([answer | {"label": True}])), json=True) == 0
    odd, good = accounts(capsys)
    assert [note[:35] for note in odd["notes"]] == ["the column label is not true or fal"]
    assert good["notes"] == []


def test_rows_over_a_given_limit_are_bad_where_they_are(
    args: Callable[..., Any],
    jsonl: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SWIFTLIKE_CACHE", str(tmp_path / "cache"))
    long = jsonl([pair(1), pair(2, query="why " * 300)])
    data = args(f"{long}#4", jsonl([pair(3)], "short.jsonl"), max_length=200, dataset_test_ratio=0.0)
    model = ModelArgs(model_type="tiny-llama")
    assert checked(data, model) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"{long}:2: longer than max_length: ")
    assert checked(data, model, json=True) == 1
    one, other = accounts(capsys)
    assert (one["bad"]["longer than max_length"]["count"], other["bad"]) == (1, {})
    cut = dc.replace(data, truncation_strategy="left")
    assert checked(cut, model) == 0
    assert checked(dc.replace(data, max_length=None), model) == 0
