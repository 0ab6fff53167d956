"""The table over iterations."""

from __future__ import annotations

from pathlib import Path

from swiftlike.stages.evaluation import mt_bench
from swiftlike.stages.evaluation.arena_hard import Battle, scores
from swiftlike.stages.evaluation.summary import different_lengths, markdown, summarise, summarise_folder

ALPACA = "  win_rate standard_error n_total avg_length\nrun/iter2 90.0 1.0 805 1500\nother 1 1 805 1500\n"
ALPACA_2 = "run/iter2 20.5 18.25 1.2 805 1600\nrun/iter10 30.5 28.256 1.2 805 2500\n"


def test_nothing_there(tmp_path: Path) -> None:
    table = summarise_folder(tmp_path)
    assert table.rows == ()
    assert len(table.columns) == 16


def test_folder(tmp_path: Path) -> None:
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (folder / "alpaca_eval.txt").write_text(ALPACA)
    (folder / "alpaca_eval_2.txt").write_text(ALPACA_2)
    table = summarise_folder(tmp_path)
    assert [row[0] for row in table.rows] == ["iter2", "iter10"]
    assert table.rows[0][table.columns.index("AlpacaEval (win %)")] == 90.0
    assert table.rows[1][table.columns.index("AlpacaEval (win %)")] is None


def test_what_our_tools_print_is_read() -> None:
    averages = {"run_iter1": {"first": 7.0, "second": 6.0, "both": 6.5}, "run_iter0": {"first": 5.0, "both": 5.0}}
    found = [Battle("run_iter0", "model_b")] * 3 + [Battle("run_iter0", "model_a"), Battle("gpt", "tie")]
    arena = scores(found, baseline="gpt-4-0314", tokens={"run_iter0": 321})
    old = mt_bench.report({"run_iter0": {"first": 1.0, "both": 1.0}})
    table = summarise(
        {"mt_bench.txt": old + mt_bench.report(averages), "arena_hard.txt": "\n".join(one.line() for one in arena)}
    )
    rows = [
        {name: value for name, value in zip(table.columns, row, strict=True) if value is not None} for row in table.rows
    ]
    best = next(one for one in arena if one.model == "run_iter0")
    assert rows == [
        {
            "Iteration": "iter0",
            "MT-Bench (GPT-4)": 5.0,
            "Arena-Hard (win %)": 75.0,
            "Arena-Hard (CI lower)": round(best.lower - 75, 1),
            "Arena-Hard (CI upper)": round(best.upper - 75, 1),
            "Arena-Hard (avg_token)": 321.0,
        },
        {"Iteration": "iter1", "MT-Bench (GPT-4)": 6.5},
    ]


def test_the_last_iteration_in_a_name_counts() -> None:
    table = summarise({"alpaca_eval.txt": "iter1_then/iter03 50 1 805 100\nx/iter3 60 1 805 100\n"})
    assert [row[0] for row in table.rows] == ["iter3"]
    assert table.rows[0][table.columns.index("AlpacaEval (win %)")] == 60.0


def test_for_reading() -> None:
    table = summarise({"alpaca_eval.txt": ALPACA, "alpaca_eval_2.txt": ALPACA_2})
    lines = markdown(table).splitlines()
    assert lines[0].startswith("| Iteration | MT-Bench (GPT-4-Turbo) |")
    assert lines[2:] == [
        "| iter2 |  |  | 90 | 20.5 | 18.25 | 1500 |  |  |",
        "| iter10 |  |  |  | 30.5 | 28.26 | 2500 |  |  |",
    ]
    assert markdown(table, verbose=True).splitlines()[0].count("|") == 16
    assert different_lengths(table) == ["iter2"]
