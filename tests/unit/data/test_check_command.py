"""`swiftlike check` as the pipeline that the command line calls."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swiftlike.args.check import CheckArgs
from swiftlike.args.model import ModelArgs
from swiftlike.core.merge import Run
from swiftlike.pipelines.check import run

from .conftest import pair, picture


def checked(data: Any, **values: Any) -> int:
    return run(Run("check", {"data": data, "check": CheckArgs(**values), "model": ModelArgs()}))


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
