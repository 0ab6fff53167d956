from __future__ import annotations

import json

from swiftlike.data.check import Problem
from swiftlike.data.report import DatasetReport, Histogram, Report
from swiftlike.datasets_registry.columns import Mapping


def test_quantiles_are_values_that_occur() -> None:
    histogram = Histogram([5, 1, 3, 2, 4])
    assert [histogram.quantile(share) for share in (0.0, 0.5, 0.95, 1.0)] == [1, 3, 5, 5]
    assert (histogram.above(3), histogram.above(0), histogram.above(5)) == (2, 5, 0)
    assert Histogram().quantile(0.5) == 0


def test_bars_count_every_value_once() -> None:
    histogram = Histogram([0, 1, 1, 2, 50, 100, 3000])
    bars = histogram.bars(8)
    assert sum(int(bar.split()[-1]) for bar in bars) == 7
    assert bars[-1].startswith("<= 3000 ")
    assert Histogram([9, 9]).bars()[0].startswith("<= 9 #")
    assert Histogram().bars() == []


def test_the_report_says_numbers_reasons_and_mapping() -> None:
    one = DatasetReport("pairs.jsonl", asked=5, found=3, train=4, val=1, repeated=2)
    one.mappings[Mapping("ShareGPT pairs", "pair", (("conversations", "prompt"),), ("id",))] += 2
    one.bad.add("image is missing", "pairs.jsonl:2: image is missing: a.png")
    one.problems.append(Problem("pairs.jsonl:2", "image is missing", "a.png"))
    one.left_out.add("a tie", "pairs.jsonl:3")
    report = Report([one], {"row tokens": Histogram([1, 2])}, 1, "pairs.jsonl:3 repeats pairs.jsonl:1")
    text = report.as_text(charts=True)
    for said in (
        "asked 5, found 3, got 4 to train on and 1 to validate on, 2 of them repeats",
        "recognised as ShareGPT pairs: conversations -> prompt (not used: id)",
        "bad 1: 1 image is missing (first: pairs.jsonl:2: image is missing: a.png)",
        "left out 1: 1 a tie (first: pairs.jsonl:3)",
        "row tokens: p50 1  p95 2  max 2  (2 values)",
        "duplicates: 1 rows",
    ):
        assert said in text
    content = json.loads(json.dumps(report.as_json()))
    assert content["datasets"][0]["bad"]["image is missing"]["count"] == 1
    assert content["problems"] == [{"at": "pairs.jsonl:2", "kind": "image is missing", "detail": "a.png"}]
