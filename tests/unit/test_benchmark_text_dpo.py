"""The speed comparison: its arithmetic, and a small run of swiftlike's side through the real command."""

import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import text_dpo

    yield text_dpo
    for name in ("text_dpo", "text_dpo_side"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("ours", "theirs", "places"),
    [
        ({"loss": 0.69315, "logps": [[-700.0, -650.0]]}, {"loss": 0.6932, "logps": [[-700.05, -650.0]]}, []),
        ({"loss": 0.6935}, {"loss": 0.6932}, ["/loss: 0.6935 against 0.6932"]),
        ({"logps": [-700.0, -1.0]}, {"logps": [-700.08, -1.0]}, ["/logps/0: -700.0 against -700.08"]),
        ({"loss": float("nan")}, {"loss": 0.6932}, ["/loss: nan against 0.6932"]),
        ({"lengths": [[5, 3]]}, {"lengths": [[5, 3], [6, 2]]}, ["/lengths: 1 against 2"]),
        ({"a": 1.0}, {"b": 1.0}, [": ['a', 'b'] on one side only"]),
    ],
)
def test_differences(bench, ours: dict, theirs: dict, places: list[str]) -> None:
    assert bench.differences(ours, theirs) == places


def test_ratios_are_of_windows_that_ran_in_turn(bench) -> None:
    assert bench.spread([4.0, 9.0, 2.0], [2.0, 3.0, 1.0]) == {"min": 2.0, "median": 2.0, "max": 3.0}


def test_pairs_are_ragged_and_the_same_each_time(bench) -> None:
    options = bench.arguments(["--tiny"])
    rows = bench.make_rows(options)
    lengths = [[len(row[name][0]["content"].split()) for name in ("prompt", "chosen", "rejected")] for row in rows]
    assert len(rows) == 8
    assert all(30 <= prompt <= 34 and min(pair) >= 7 and max(pair) <= 9 for prompt, *pair in lengths)
    assert any(chosen != rejected for _, chosen, rejected in lengths)
    assert rows == bench.make_rows(options)


@pytest.mark.slow
def test_small_run_of_our_side(bench, tmp_path: Path) -> None:
    """Log-probabilities and the warm store included; TRL takes part only where someone has it."""
    output = tmp_path / "found.json"
    words = ["--tiny", "--sides", "swiftlike live", "swiftlike cache", "--checkpointing", "on"]
    assert bench.main([*words, "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    (setting,) = found["settings"]
    assert set(setting["sides"]) == {"swiftlike live", "swiftlike cache"}
    for side in setting["sides"].values():
        assert len(side["windows_rows_per_s"]) == 2
        assert min(side["windows_rows_per_s"]) > 0
        assert side["peak_mib"] > side["peak_over_loaded_mib"] > 0
    assert "swiftlike cache" in output.with_suffix(".txt").read_text()
