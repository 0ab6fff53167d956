"""`swiftlike verify` without vLLM (with it: tests/with_vllm)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from swiftlike.cli.commands import load
from swiftlike.cli.layers import build_run
from swiftlike.core.errors import UserError
from swiftlike.engines.prompts import Prompts
from swiftlike.pipelines.verify import run

from .runs import train


def verify(*words: str) -> int:
    engines = [] if "--engines" in words else ["--engines", "pt"]
    return run(build_run(load("verify"), [*words, *engines], {})[0])


def columns(printed: str) -> list[list[str]]:
    """The rows of the table: name, prompts that differ, picture tokens, largest and mean difference."""
    return [[one.strip() for one in line.split("  ") if one.strip()] for line in printed.splitlines()[2:-1]]


@pytest.mark.parametrize(
    ("model", "data", "pictures"), [("tiny-qwen3", "demo", False), ("tiny-internvl3", "demo-vl", True)]
)
def test_an_adapter_and_its_merged_weights(
    model: str, data: str, pictures: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags: dict[str, Any] = {"rlhf_type": "dpo", "model_type": model, "dataset": f"{data}#8", "max_steps": 1}
    trained = train("rlhf", tmp_path, save_strategy="steps", save_steps=1, learning_rate=0.01, **flags)
    capsys.readouterr()
    assert verify(f"{data}#3", "--ckpt_dir", str(trained.checkpoint)) == 0
    printed = capsys.readouterr().out
    rows = columns(printed)
    assert [row[0] for row in rows] == ["pt", "pt, merged"]
    assert all(row[1] == "0" and (int(row[2]) > 0) == pictures for row in rows)
    assert all(float(row[3]) < 1e-4 for row in rows)
    assert printed.splitlines()[-1] == "bound 0.001: equal"
    assert verify(f"{data}#3", "--ckpt_dir", str(trained.checkpoint), "--bound", "0") == 1


def test_supervised_training_with_several_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All assistant turns count there, and earlier ones are encoded on their own."""
    picture = tmp_path / "blue.png"
    Image.new("RGB", (70, 40), "blue").save(picture)
    turns = [("user", "<image>Which colour?"), ("assistant", "Blue."), ("user", "Sure?"), ("assistant", "Yes.")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns], "images": [str(picture)]}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    flags: dict[str, Any] = {"model_type": "tiny-llava1_6", "dataset": str(file), "max_steps": 1, "batch_size": 1}
    trained = train("sft", tmp_path / "out", save_strategy="steps", save_steps=1, **flags)
    capsys.readouterr()
    assert verify(str(file), "--ckpt_dir", str(trained.checkpoint)) == 0
    assert "1 rows, 1 answers" in capsys.readouterr().out


def test_other_prompts_are_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A first token twice, the usual mistake of serving code."""
    ids = Prompts._ids
    monkeypatch.setattr(Prompts, "_ids", lambda self, request: [ids(self, request)[0], *ids(self, request)])
    assert verify("demo#2", "--model_type", "tiny-llama") == 1
    printed = capsys.readouterr().out
    assert columns(printed)[0][:2] == ["pt", "4"]
    assert "NOT EQUAL" in printed


def test_what_is_missing_is_named() -> None:
    with pytest.raises(UserError) as refused:
        verify("--engines", "tgi")
    problems = "\n".join(refused.value.problems)
    assert all(part in problems for part in ("'tgi'", "name a data set", "which model?"))
