"""`swiftlike report`: results of every kind as one table, and what is drawn of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from swiftlike.cli.app import perform
from swiftlike.core.errors import UserError
from swiftlike.pipelines.report_plot import interval, place


def put(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in value) if isinstance(value, list) else json.dumps(value))
    return path


def kl(path: Path, value: float, reward: float) -> Path:
    found = {"eval_type": "kl", "model": "m", "rows": 4, "bad_rows": {"blank": 1}, "left_out": {}, "kl": value}
    return put(path, found | {"kl_stderr": 0.5, "mean_reward": reward, "nothing": None, "sure": True})


def reported(place: Path, *words: Any) -> Path:
    assert perform("report", ["--output_dir", str(place), "--results", *map(str, words)]) == 0
    return place


def rows(place: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((place / "table.json").read_text())
    return found


# -- tables -----------------------------------------------------------------------------------------------------------


def test_tables_are_exact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = kl(tmp_path / "a.json", 1 / 3, 2.0), kl(tmp_path / "b" / "kl.json", 12.0, -1.5)
    out = reported(tmp_path / "out", f"iter1={first}", f"iter0={second.parent}", "--show", "mean_reward", "kl")
    text = "| name | mean_reward | kl |\n| --- | ---: | ---: |\n| iter1 | 2 | 0.333333 |\n| iter0 | -1.5 | 12 |\n"
    assert (out / "table.md").read_text() == text
    assert capsys.readouterr().out == text
    assert (out / "table.csv").read_text() == f"name,mean_reward,kl\niter1,2.0,{1 / 3}\niter0,-1.5,12.0\n"
    assert rows(out) == [
        {"name": "iter1", "mean_reward": 2.0, "kl": 1 / 3},
        {"name": "iter0", "mean_reward": -1.5, "kl": 12.0},
    ]
    assert sorted(path.name for path in out.iterdir()) == ["table.csv", "table.json", "table.md"]


def test_all_numbers_are_columns(tmp_path: Path) -> None:
    harness = {"results": {"arc": {"acc,none": 0.25, "acc_stderr,none": 0.1}}, "lm_eval": "0.4"}
    other = put(tmp_path / "lm_eval.json", {"eval_type": "lm_eval", **harness})
    games = put(tmp_path / "w.json", {"eval_type": "win_rate", "win_rate": 0.5, "lower": 0.25, "upper": 0.75})
    found = rows(reported(tmp_path / "out", f"x={kl(tmp_path / 'kl.json', 1, 2)}", f"x={other}", f"y={games}"))
    mine = {"rows": 4, "kl": 1, "kl_stderr": 0.5, "mean_reward": 2, "arc/acc": 0.25, "arc/acc_stderr": 0.1}
    assert found == [
        {"name": "x", **mine},
        {"name": "y", "win_rate": 0.5, "win_rate_lower": 0.25, "win_rate_upper": 0.75},
    ]
    text = (tmp_path / "out" / "table.csv").read_text().splitlines()
    assert text[2] == "y,,,,,,,0.5,0.25,0.75"


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_files_of_answers(suffix: str, tmp_path: Path) -> None:
    asked = [
        {"prompt": "a", "completions": ["one two", "three"], "rewards": [1, 3]},
        {"prompt": "b", "completions": ["four", "five six seven"], "rewards": [-2.0, 0]},
        {"prompt": "nobody answered"},
    ]
    path = tmp_path / f"scored.{suffix}"
    path.write_text(json.dumps(asked) if suffix == "json" else "".join(json.dumps(one) + "\n" for one in asked))
    (found,) = rows(reported(tmp_path / "out", path))
    assert found.pop("mean_reward_stderr") == pytest.approx((13 / 3 / 4) ** 0.5)
    assert found.pop("best_reward_stderr") == pytest.approx((4.5 / 2) ** 0.5)
    expected = {"rows": 2, "answers": 4, "mean_length": 7.5, "mean_words": 1.75, "mean_reward": 0.5, "best_reward": 1.5}
    assert found == {"name": "scored", **expected}


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"query_id": "1", "query": "q", "sample_0": "ab", "sample_1": "abcd"}, (2, 3.0, None)),
        ({"query": "q", "sample_0": "ab", "sample_1": "abcd", "scores": {"sample_0": 2.5}}, (2, 3.0, 2.5)),
        ({"prompt": [{"role": "user", "content": "q"}], "completions": ["abc"], "scores": [4]}, (1, 3.0, 4)),
        ({"messages": [{"role": "user", "content": "q"}], "response": "abc", "labels": None}, (1, 3.0, None)),
        ({"text": ["q<sep>abc", "q<sep>a"], "scores": [1.0, 0.0]}, (2, 2.0, 0.5)),
    ],
)  # fmt: skip
def test_answers_of_every_format(row: dict[str, Any], wanted: tuple[Any, ...], tmp_path: Path) -> None:
    (found,) = rows(reported(tmp_path / "out", put(tmp_path / "rows.jsonl", [row])))
    assert (found["answers"], found["mean_length"], found.get("mean_reward")) == wanted


def test_a_pair_has_no_rewards(tmp_path: Path) -> None:
    row = {"prompt": "q", "chosen": "abc", "rejected": "a", "margin": 2.0}
    (found,) = rows(reported(tmp_path / "out", put(tmp_path / "rows.jsonl", [row])))
    assert (found["mean_length"], "mean_reward" in found) == (2.0, False)


def test_columns_of_different_kinds_are_told_apart(tmp_path: Path) -> None:
    scored = put(tmp_path / "s.jsonl", [{"prompt": "a", "completions": ["b", "c"], "rewards": [1, 2]}])
    words = [f"i{n}={path}" for n in range(2) for path in (kl(tmp_path / f"{n}.json", n, 2 * n), scored)]
    out = reported(tmp_path / "out", *words, f"i0:other={scored}", "--y", "answers_mean_reward", "kl")
    first, second = rows(out)
    assert (first["kl_mean_reward"], first["answers_mean_reward"], first["other_mean_reward"]) == (0, 1.5, 1.5)
    assert (second["kl_mean_reward"], second["kl_rows"], second["kl"], second["kl_stderr"]) == (2, 4, 1, 0.5)
    assert "mean_reward" not in first
    assert first["answers_mean_reward_stderr"] == 0.5  # an interval goes with its column
    with pytest.raises(UserError, match="kl_mean_reward or answers_mean_reward or other_mean_reward"):
        reported(tmp_path / "out", *words, f"i0:other={scored}", "--y", "mean_reward")


def test_a_column_has_its_prefix_as_another_name(tmp_path: Path) -> None:
    accuracy = put(
        tmp_path / "r" / "reward.json", {"eval_type": "reward", "accuracy": 0.75, "calibration_ECE_bin10": 0}
    )
    words = [f"iter0={accuracy.parent}", f"iter0={kl(tmp_path / 'kl.json', 1, 2)}"]
    out = reported(tmp_path / "out", *words, "--show", "reward_model_accuracy", "mean_reward", "calibration_ECE_bin10")
    assert rows(out) == [{"name": "iter0", "accuracy": 0.75, "mean_reward": 2, "calibration_ECE_bin10": 0}]


def test_two_results_of_one_kind_need_a_prefix(tmp_path: Path) -> None:
    first, second = kl(tmp_path / "a.json", 1, 2), kl(tmp_path / "b.json", 3, 4)
    with pytest.raises(UserError, match=r"both .*a\.json and .*b\.json have kl_rows") as caught:
        reported(tmp_path / "out", f"x={first}", f"x={second}")
    assert "x:PREFIX=" in str(caught.value)
    (found,) = rows(reported(tmp_path / "out", f"x:base={first}", f"x:sft={second}", "--show", "base_kl", "sft_kl"))
    assert found == {"name": "x", "base_kl": 1, "sft_kl": 3}


# -- what cannot be reported ------------------------------------------------------------------------------------------


def test_every_missing_file_is_named(tmp_path: Path) -> None:
    settings = put(tmp_path / "args.json", {"args": {}})
    good = kl(tmp_path / "good" / "kl.json", 1, 2)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("{")
    words = [f"good={good}", f"gone={tmp_path}/no.json", f"args={settings}", f"none={tmp_path}/empty"]
    with pytest.raises(UserError) as caught:
        reported(tmp_path / "out", *words, f"broken={tmp_path}/broken.json")
    text = str(caught.value)
    for part in ("gone: there is no", "args: ", "no eval_type", "none: ", "holds no result", "broken: cannot read"):
        assert part in text
    assert "good:" not in text
    assert not (tmp_path / "out").exists()


def test_missing_columns_are_named_with_their_results(tmp_path: Path) -> None:
    games = put(tmp_path / "w.json", {"eval_type": "win_rate", "win_rate": 0.5})
    words = [f"iter0={kl(tmp_path / 'kl.json', 1, 2)}", f"iter1={games}"]
    with pytest.raises(UserError) as caught:
        reported(tmp_path / "out", *words, "--x", "kl", "--y", "win_rate")
    assert [line for line in str(caught.value).splitlines() if "has no" in line] == [
        "  - iter0 has no win_rate",
        "  - iter1 has no kl",
    ]
    with pytest.raises(UserError, match="did you mean 'win_rate'"):
        reported(tmp_path / "out", *words, "--y", "win_rates")
    for more in (["--x", "kl"], ["--series", "true"], ["--title", "t"]):
        with pytest.raises(UserError, match=f"{more[0]}: what is drawn"):
            reported(tmp_path / "out", *words, *more)


# -- pictures ---------------------------------------------------------------------------------------------------------


def colours(path: Path) -> int:
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert not {"Software", "Creation Time", "date"} & picture.info.keys()
        return len(picture.convert("RGB").getcolors(1 << 24) or ())


@pytest.mark.parametrize(
    "more",
    [
        ["--y", "mean_reward", "kl"],
        ["--x", "kl", "--y", "mean_reward", "--title", "Frontier"],
        ["--x", "kl", "--y", "mean_reward", "--series", "true"],
    ],
)
def test_a_picture_is_drawn_and_is_the_same_again(more: list[str], tmp_path: Path) -> None:
    values = {"exo/ckpt1": (1, 2), "exo/ckpt2": (3, 5), "dpo/ckpt1": (1, 1), "dpo/ckpt2": (4, 3)}
    words = [f"{name}={kl(tmp_path / f'{name}.json', *pair)}" for name, pair in values.items()]
    first = (reported(tmp_path / "out", *words, *more) / "plot.png").read_bytes()
    assert colours(tmp_path / "out" / "plot.png") > 20
    assert (reported(tmp_path / "again", *words, *more) / "plot.png").read_bytes() == first
    kl(tmp_path / "exo/ckpt2.json", 3, 6)
    assert (reported(tmp_path / "again", *words, *more) / "plot.png").read_bytes() != first
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("plot.png", "table.csv", "table.json", "table.md")
    ]


def places(names: Sequence[str], *, series: bool = False) -> tuple[dict[str, list[tuple[float, str]]], str]:
    lines, axis, _ = place({name: {} for name in names}, None, series)
    return {line: [(one.x, one.label) for one in points] for line, points in lines.items()}, axis


def test_where_points_stand() -> None:
    assert places(["iter10", "iter2"]) == ({"": [(10, "iter10"), (2, "iter2")]}, "iter")
    assert places(["sft", "iter1"]) == ({"": [(0, "sft"), (1, "iter1")]}, "")
    assert places(["a1", "b1"]) == ({"": [(0, "a1"), (1, "b1")]}, "")
    found = {"exo": [(1, "ckpt1"), (3, "ckpt3")], "a/dpo": [(3, "ckpt3")]}
    assert places(["exo/ckpt1", "exo/ckpt3", "a/dpo/ckpt3"], series=True) == (found, "ckpt")
    assert place({"i3": {"kl": 7.0}, "i1": {"kl": 5.0}}, "kl", False)[0][""][0].x == 7.0


def test_intervals() -> None:
    assert interval({"w": 0.5, "w_lower": 0.25, "w_upper": 1.0}, "w") == (0.25, 0.5)
    assert interval({"r": 2, "r_stderr": 0.5}, "r") == (0.98, 0.98)
    assert interval({"r": 2, "s_stderr": 0.5}, "r") is None
