"""`verify`, `sample` and `eval` with vLLM, as they are typed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swiftlike.cli.app import perform
from swiftlike.pipelines import sample
from swiftlike.pipelines.evaluate import generate
from tests.integration.runs import write_rows

from .using import FLAGS, NEEDS_VLLM, adapter, engine

pytestmark = NEEDS_VLLM


def test_verify(tmp_path: Path) -> None:
    folder = adapter("tiny-llama", tmp_path / "mine")
    words = ["verify", "demo", "--model_type", "tiny-llama", "--adapters", str(folder), "--rows", "2", *FLAGS]
    ran = subprocess.run([sys.executable, "-m", "swiftlike", *words], capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stdout + ran.stderr[-4000:]
    lines = ran.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[-5:-1]] == ["pt", "pt, merged", "vllm", "vllm, merged"]
    assert lines[-1] == "bound 0.001: equal"


class Shared:
    """An engine that several commands use: one start takes longer than all their work."""

    def __init__(self, made: Any) -> None:
        self.generate, self.count = made.generate, made.count

    def close(self) -> None:
        """The next command goes on with it."""


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapter("tiny-llama", tmp_path_factory.mktemp("adapters") / "mine")


@pytest.fixture(scope="module")
def vllm(mine: Path) -> Iterator[Shared]:
    with engine("vllm", model_type="tiny-llama", adapters=[str(mine)]) as made:
        yield Shared(made)


@pytest.fixture
def backends(vllm: Shared, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Names of backends, one after the other; commands that run meanwhile get that engine."""

    def each() -> Iterator[str]:
        yield "pt"
        for module in (sample, generate):
            monkeypatch.setattr(module, "open_engine", lambda run, opened: vllm)
        yield "vllm"

    return each()


def flags(mine: Path, backend: str, tokens: int) -> list[str]:
    found = ["--model_type", "tiny-llama", "--adapters", str(mine), "--infer_backend", backend]
    return [*found, "--max_new_tokens", str(tokens), *FLAGS]


def test_sample(mine: Path, backends: Iterator[str], tmp_path: Path) -> None:
    """The greedy answer is that of pt; drawn ones differ from one another, and are the same again."""
    data = write_rows(tmp_path / "rows.jsonl", [{"query": f"Say {n}.", "response": "x"} for n in range(3)])
    words = ["--num_return_sequences", "2", "--add_zero_temperature", "true", "--seed", "3", "--overwrite", "true"]

    def sampled(backend: str) -> list[list[str]]:
        output = tmp_path / "out.jsonl"
        assert perform("sample", [str(data), *flags(mine, backend, 8), *words, "--output", str(output)]) == 0
        return [json.loads(line)["completions"] for line in output.read_text().splitlines()]

    next(backends)
    by_pt = sampled("pt")
    backend = next(backends)
    by_vllm = sampled(backend)
    assert [len(one) for one in by_vllm] == [3, 3, 3]
    assert [one[-1] for one in by_vllm] == [one[-1] for one in by_pt]
    assert len({text for one in by_vllm for text in one[:2]}) == 6
    assert sampled(backend) == by_vllm


KINDS = {
    "mt_bench": [{"question_id": 1, "category": "math", "turns": ["Add 1 and 1.", "And 2 more?"]}],
    "arena_hard": [{"question_id": f"q{n}", "turns": [{"content": f"Say {n}."}]} for n in range(3)],
    "alpaca_eval": [{"instruction": f"Say {n}.", "dataset": "d"} for n in range(3)],
}


@pytest.mark.parametrize("kind", KINDS)
def test_eval(kind: str, mine: Path, backends: Iterator[str], tmp_path: Path) -> None:
    """Files of answers, but for their ids and times."""
    asked = write_rows(tmp_path / "asked.jsonl", KINDS[kind])
    if kind == "alpaca_eval":
        asked.write_text(json.dumps(KINDS[kind]))
    found = []
    for backend in backends:
        words = ["--eval_type", kind, "--questions", str(asked), "--model_id", "m", "--temperature", "0"]
        assert perform("eval", [*words, "--output_dir", str(tmp_path / backend), *flags(mine, backend, 8)]) == 0
        (file,) = (path for path in (tmp_path / backend / kind).rglob("m.json*") if "annotations" not in path.parts)
        lines = [file.read_text()] if kind == "alpaca_eval" else file.read_text().splitlines()
        found.append([without(json.loads(line), {"answer_id", "tstamp", "uid"}) for line in lines])
    assert found[0] == found[1]


def without(value: Any, names: set[str]) -> Any:
    return {name: one for name, one in value.items() if name not in names} if isinstance(value, dict) else value
