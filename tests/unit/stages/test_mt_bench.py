"""Temperatures, verdicts, averages and answer files of MT-Bench and AlpacaEval."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swiftlike.stages.evaluation import alpaca_eval, answers, mt_bench


def graded(question: int, turn: int, score: float, model: str = "m") -> dict:
    return {"question_id": question, "model": model, "turn": turn, "score": score}


@pytest.mark.parametrize(
    ("category", "temperature"), [("writing", 0.7), ("math", 0.0), ("stem", 0.1), ("humanities", 0.1), ("other", 0.7)]
)
def test_temperature(category: str, temperature: float) -> None:
    assert mt_bench.temperature(category) == temperature


@pytest.mark.parametrize(
    ("text", "score"), [("Rating: [[7]]", 7), ("[[8.5]] not [3]", 8.5), ("so [6].", 6), ("seven", -1), ("[[A]]", -1)]
)
def test_rating(text: str, score: float) -> None:
    assert mt_bench.rating(text) == score


def test_averages() -> None:
    lines = [graded(1, 1, 2), graded(1, 1, 8), graded(2, 1, 6), graded(1, 2, -1), graded(2, 2, 1), graded(1, 1, 9, "n")]
    assert mt_bench.averages(lines) == {
        "m": {"first": 7, "second": 1, "both": 5},
        "n": {"first": 9, "both": 9},
    }


def test_a_win_takes_both_games() -> None:
    def game(first: str, second: str, other: str = "base") -> dict:
        return {"model_1": "m", "model_2": other, "g1_winner": first, "g2_winner": second}

    lines = [
        game("model_1", "model_1"),
        game("model_2", "model_2"),
        game("model_1", "model_2"),
        game("tie", "tie"),
        game("tie", "model_1"),
        game("error", "model_1"),
        game("model_1", "model_1", other="x"),
    ]
    assert mt_bench.win_rates(lines, "base") == {"m": {"win": 1, "loss": 1, "tie": 3, "win_rate": 0.5}}
    assert mt_bench.win_rates(lines)["x"] == {"win": 0, "loss": 1, "tie": 0, "win_rate": 0.0}
    assert mt_bench.win_rates(lines)["m"]["win"] == 2


def test_answer_files_are_put_in_order(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    rows = [
        answers.answer_row({"question_id": i}, "org/m", [[text]], now=1.5) for i, text in ((2, "a"), (1, "b"), (2, "c"))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert answers.reorder_file(path) == 2
    read = [json.loads(line) for line in path.read_text().splitlines()]
    assert read == [rows[1], rows[2]]
    assert rows[2] == {
        "question_id": 2,
        "answer_id": rows[2]["answer_id"],
        "model_id": "org_m",
        "choices": [{"index": 0, "turns": ["c"]}],
        "tstamp": 1.5,
    }
    assert len({row["answer_id"] for row in rows}) == 3


def test_alpaca_eval_rows(tmp_path: Path) -> None:
    example = {"instruction": "q", "dataset": "koala", "output": "theirs", "generator": "davinci"}
    row = alpaca_eval.answer_row(example, "é", "m")
    assert row == {"instruction": "q", "dataset": "koala", "output": "é", "generator": "m"}
    assert alpaca_eval.messages(example) == [{"role": "user", "content": "q"}]
    alpaca_eval.write(tmp_path / "out.json", [row])
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == [row]
