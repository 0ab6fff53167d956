"""The serving benchmark: its arithmetic, and a small run of the pt sides through the real commands."""

import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import serve

    yield serve
    for name in ("serve", "serve_side", "common", "channel"):
        sys.modules.pop(name, None)


def test_windows_ask_other_questions_of_the_same_lengths(bench) -> None:
    options = bench.arguments([])
    windows = bench.make_questions(options)
    lengths = [[len(one.split()) + 2 for one in window] for window in windows]
    assert len(windows) == options.windows + 1 == 4
    assert all(one == lengths[0] for one in lengths)
    assert (len(lengths[0]), min(lengths[0]), max(lengths[0])) == (64, 23, 118)
    assert len({one for window in windows for one in window}) == 4 * 64


@pytest.mark.parametrize(
    ("ours", "theirs", "wrong"),
    [
        ([[5, 2, "a b"], [6, 1, "c"]], [[5, 2, "a b"], [6, 1, "c"]], 0),
        ([[5, 2, "a b"], [6, 1, "c"]], [[5, 2, "a b"]], 0),
        ([[5, 2, "a b"], [6, 1, "c"]], [[5, 2, "a x"], [7, 1, "c"]], 2),
        ([[5, 2, "a b"]], [[5, 3, "a b"]], 1),
    ],
)
def test_answers_that_differ(bench, ours: list, theirs: list, wrong: int) -> None:
    assert len(bench.different(ours, theirs)) == wrong


def test_ratio_and_its_bound(bench) -> None:
    def side(*speeds: float) -> dict:
        return {"windows_tokens_per_s": list(speeds), "windows_tokens_per_cpu_s": list(speeds)}

    slow, fast = side(10, 20, 10), side(39, 90, 45)
    found = bench.compare({"one by one": slow, "deploy pt": fast})["deploy pt / one by one"]
    assert found["tokens_per_s"] == {"min": 3.9, "median": 4.5, "max": 4.5}
    assert (found["wanted"], found["reached"]) == (4.0, True)
    (missed,) = bench.compare({"vllm": side(100), "infer vllm": side(96)}).values()
    assert (missed["wanted"], missed["reached"]) == (0.97, False)


@pytest.mark.slow
def test_small_run(bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All pt sides give the same answers; vLLM's part says that it is left out."""
    pytest.importorskip("fastapi")
    output = tmp_path / "found.json"
    assert bench.main(["--quick", "--output", str(output)]) == 0
    assert "SKIPPED: vLLM was not measured" in capsys.readouterr().err
    found = json.loads(output.read_text())
    (setting,) = found["settings"]
    assert set(setting["sides"]) == set(bench.GROUPS["pt"])
    for side in setting["sides"].values():
        assert side["answers_that_differ"] == 0
        assert len(side["windows_s"]) == 2
        assert side["tokens_per_s"] > 0
    text = output.with_suffix(".txt").read_text()
    assert "deploy pt / one by one" in text
    assert "SKIPPED: vLLM was not measured" in text
