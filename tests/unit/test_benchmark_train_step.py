"""The benchmark of training steps: its arithmetic, its rows, and small runs of swiftlike's sides."""

import json
import random
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import train_step

    yield train_step
    for path in FOLDER.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.mark.parametrize(
    ("ours", "theirs", "places"),
    [
        ({"loss": 0.69315, "start": [-700.0, -650.0]}, {"loss": 0.6940, "start": [-700.007, -650.0]}, []),
        ({"loss": 0.6952}, {"loss": 0.6932}, ["/loss: 0.6952 against 0.6932"]),
        ({"start": [-700.0, -1.0]}, {"start": [-700.01, -1.0]}, ["/start/0: -700.0 against -700.01"]),
        ({"loss": float("nan")}, {"loss": 0.6932}, ["/loss: nan against 0.6932"]),
        ({"lengths": [[5, 3]]}, {"lengths": [[5, 3], [6, 2]]}, ["/lengths: 1 against 2"]),
        ({"loss": 1.0, "start": [1.0]}, {"loss": 1.0}, []),
        ({"gradients": {"a": 1.0}}, {"gradients": {"b": 1.0}}, ["/gradients: ['a', 'b'] on one side only"]),
    ],
)
def test_differences(bench, ours: dict, theirs: dict, places: list[str]) -> None:
    assert bench.differences(ours, theirs) == places


def test_a_group_is_compared_with_pairs(bench) -> None:
    ours = {"lengths": [[9, 1, 2, 3, 4]], "start": [1.0], "reference": [2.0], "policy": [3.0], "loss": 5.0}
    found = bench.comparable(ours, {"lengths": [[9, 1, 2], [9, 3, 4]], "loss": 7.0})
    assert found["lengths"] == [[9, 1, 2], [9, 3, 4]]
    assert "loss" not in found
    assert bench.comparable(ours, {"whole_lengths": []})["whole_lengths"] == [[10, 11, 12, 13]]


def side(speeds: list[float], peak: float = 1000.0) -> dict:
    cpu = [1 / speed for speed in speeds]
    middle = sorted(speeds)[len(speeds) // 2]
    memory = {"peak_mib": peak, "peak_over_loaded_mib": peak / 2, "first_step_s": 10.0}
    return {"rows_per_s": middle, "windows_rows_per_s": speeds, "windows_cpu_s_per_row": cpu, **memory}


def test_wanted_figures_are_of_the_fastest_and_of_the_leanest_peer(bench) -> None:
    sides = {
        "swiftlike live": side([3.0, 3.0, 3.0]),
        "swiftlike cache": side([4.0, 9.0, 6.0], 400.0),
        "trl": side([1.0, 1.0, 1.0], 1000.0),
        "ms-swift": side([2.0, 3.0, 2.0], 2000.0),
    }
    found = bench.compare(sides, bench.WORKLOADS["c"])
    assert found["pairs"]["swiftlike cache / ms-swift"]["rows_per_s"] == {"min": 2.0, "median": 3.0, "max": 3.0}
    assert found["wanted"]["rows_per_s"] == {"peer": "ms-swift", "found": 3.0, "wanted": 3.0, "reached": True}
    assert found["wanted"]["peak"] == {"peer": "trl", "found": 0.4, "wanted": 0.4, "reached": True}
    sides["trl"]["peak_mib"] = 990.0
    assert not bench.compare(sides, bench.WORKLOADS["c"])["wanted"]["peak"]["reached"]


def test_tokens_of_a_window_are_those_of_its_rows(bench) -> None:
    options = bench.arguments(["--quick"])
    options.batch_size, options.accumulation, options.lengths = 1, 1, [[100, 1, 1], [10, 2, 3], [20, 4, 5]]
    import train_numbers

    assert train_numbers.tokens_of(options, 1) == 2 * 10 + 2 + 3  # the warm-up step took the first row
    assert train_numbers.tokens_of(options, 3) == 2 * 100 + 1 + 1  # the second epoch begins


@pytest.mark.parametrize("name", ["a", "b", "c", "e4", "e8", "f", "g"])
def test_rows_are_ragged_and_the_same_each_time(bench, name: str, tmp_path: Path) -> None:
    import workloads

    options = bench.arguments([])
    options.rows, options.vocabulary, options.tile = 24, 2048, 448
    workload = workloads.WORKLOADS[name]
    rows = workload.rows(options, random.Random(0))
    assert rows == workload.rows(options, random.Random(0))
    lengths = {tuple(len(text.split()) for text in (row.prompt, *row.answers)) for row in rows}
    assert len(lengths) > 12
    assert {len(one) for one in lengths} == {1 + workload.answers}
    if name == "b":
        tiles = [row.picture[0] * row.picture[1] // 448**2 for row in rows]
        assert sorted(tiles) == sorted([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12] * 2)
    if name == "e4":
        workloads.write_rows(rows, workload, tmp_path)
        pairs = [json.loads(line) for line in (tmp_path / "trl.jsonl").read_text().splitlines()]
        groups = [json.loads(line) for line in (tmp_path / "swiftlike.jsonl").read_text().splitlines()]
        assert (len(pairs), len(groups)) == (48, 24)
        assert [pairs[1]["chosen"][0]["content"], pairs[1]["rejected"][0]["content"]] == groups[0]["completions"][2:]


def test_a_run_keeps_what_it_does_not_measure(bench, tmp_path: Path) -> None:
    import train_report

    here = {"size": "tiny", "device": "cpu", "threads": 1, "checkpointing": "on"}
    old = [{**here, "workload": name, "machine": bench.machine(), "found": 1} for name in ("c", "g")]
    away = {**here, "workload": "f", "machine": {"cpu": "another"}, "found": 1}
    card = {**away, "device": "cuda"}
    (tmp_path / "found.json").write_text(json.dumps({"results": [*old, away, card]}))
    results = train_report.known(tmp_path / "found.json", "cpu", bench.machine())
    merged = train_report.merged(results, {**here, "workload": "c", "found": 2})
    assert [(one["workload"], one["found"]) for one in merged] == [("c", 2), ("g", 1), ("f", 1)]


def test_the_published_page_is_that_of_the_results(bench) -> None:
    import train_report

    published = FOLDER / "results" / "train_step.json"
    if not published.is_file():
        pytest.skip("nothing is published")
    results = json.loads(published.read_text(encoding="utf-8"))["results"]
    assert not any(one["rows"]["quick"] for one in results)
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert page == train_report.as_page(results, "images/train_step.png")
    assert published.with_suffix(".txt").read_text(encoding="utf-8").startswith(train_report.table(results))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sides"), [("a", 2), ("e4", 3), ("f", 1), ("g", 1)])
def test_small_run_of_our_side(bench, name: str, sides: int, tmp_path: Path) -> None:
    """Log-probabilities and the warm store included; peers take part only where someone has them."""
    output = tmp_path / "found.json"
    words = ["--quick", "--tools", "swiftlike", "--checkpointing", "on", "--workloads", name]
    assert bench.main([*words, "--output", str(output), "--page", str(tmp_path / "page.md")]) == 0
    (entry,) = json.loads(output.read_text())["results"]
    assert (entry["skipped"], len(entry["sides"])) == ({}, sides)
    for found in entry["sides"].values():
        assert len(found["windows_rows_per_s"]) == 2
        assert min(found["windows_rows_per_s"]) > 0
        assert found["peak_mib"] > found["peak_over_loaded_mib"] > 0
        assert 0 <= found["padding"] < 0.6
    assert f"({name}) " in output.with_suffix(".txt").read_text()
    assert (tmp_path / "images" / "train_step.png").stat().st_size > 1000
