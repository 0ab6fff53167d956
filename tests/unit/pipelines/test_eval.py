"""`swiftlike eval`: files of answers, games, and judges over a real socket."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swiftlike.cli.app import perform
from swiftlike.core.errors import UserError
from swiftlike.datasets_registry.row import Image, Message, Row, Turns
from swiftlike.pipelines.evaluate.answers import key_of
from swiftlike.pipelines.evaluate.games import Played, interval, play
from swiftlike.pipelines.judges import Group, ScorerCard
from swiftlike.pipelines.judges.compare import worth_of
from swiftlike.stages.evaluation import mt_bench
from swiftlike.stages.evaluation.arena_hard import battles, winner_counts

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "eval_tools.json").read_text())["cases"]
Reply = Callable[[str], str]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWIFTLIKE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def served() -> Iterator[Callable[[Reply], str]]:
    """Starts a judge: what it replies to the last message of a conversation."""
    running: list[ThreadingHTTPServer] = []

    def start(reply: Reply) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                said = reply("\n".join(one["content"] for one in body["messages"] if one["role"] == "user"))
                choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
                answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "j", "choices": [choice]}
                data = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *words: Any) -> None:
                """Quiet."""

        running.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=running[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{running[-1].server_port}/v1"

    yield start
    for one in running:
        one.shutdown()
        one.server_close()


def put(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def evaluated(place: Path, kind: str, *words: Any) -> dict[str, Any]:
    """The results of an evaluation that succeeds."""
    assert perform("eval", ["--eval_type", kind, "--output_dir", str(place), *map(str, words)]) == 0
    return json.loads(max(place.glob(f"{kind}*.json"), key=lambda path: path.stat().st_mtime_ns).read_text())


# -- files of answers -------------------------------------------------------------------------------------------------

USER = {"role": "user", "content": "Name a fruit."}
SYSTEM = {"role": "system", "content": "Be brief."}
INFER = {"index": 0, "messages": [SYSTEM, USER, {"role": "assistant", "content": "plum"}], "response": "plum"}
INFER |= {"labels": "pear", "images": [], "finish_reason": "stop", "error": None}
FORMS = {
    "infer": INFER,
    "alpaca_eval": {"instruction": "Name a fruit.", "output": "plum", "generator": "g", "dataset": "d"},
    "exo": {"prompt": "Name a fruit.", "completions": ["plum"]},
    "chat": {"prompt": [USER], "completions": ["plum"]},
    "apo": {"query_id": "1", "query": "Name a fruit.", "sample_0": "plum"},
    "aipo": {"messages": [USER], "prompt": "Name a fruit.", "responses": ["plum"]},
}


@pytest.mark.parametrize("name", FORMS)
def test_every_file_of_answers_is_matched(name: str, tmp_path: Path) -> None:
    unanswered = {"index": 1, "messages": [USER], "response": None, "error": "picture is broken"}
    first = put(tmp_path / "first.jsonl", [FORMS[name], unanswered])
    second = put(tmp_path / "second.json", [{"instruction": "Name a fruit.", "output": "saw"}])
    found = evaluated(tmp_path, "win_rate", "--results", first, second, "--regex", "plum")
    assert (found["pairs"], found["wins"], found["win_rate"]) == (1, 1, 1.0)
    assert sum(found["bad_rows"].values()) == 1
    assert (found["mean_length_first"], found["mean_length_second"]) == (4, 3)
    assert lines(tmp_path / "win_rate.jsonl")[0]["outcome"] == "win"


def test_answers_without_a_partner_are_counted(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completions": ["x", "y"]}, {"prompt": "b", "completions": ["x"]}]
    first = put(tmp_path / "first.jsonl", rows)
    second = put(tmp_path / "second.jsonl", [{"prompt": " a ", "completions": ["y"]}])
    found = evaluated(tmp_path, "win_rate", "--results", first, second, "--regex", "x")
    assert (found["pairs"], found["only_first"], found["only_second"]) == (1, 2, 0)
    other = put(tmp_path / "other.jsonl", [{"prompt": "c", "completions": ["y"]}])
    with pytest.raises(UserError, match="no prompt in common"):
        evaluated(tmp_path, "win_rate", "--results", first, other, "--regex", "x")


def test_scores_that_the_files_have(tmp_path: Path) -> None:
    """Each answer keeps its own; those of another answer in its row are not taken for those of the pair."""
    first = put(tmp_path / "first.jsonl", [{"prompt": "a", "completions": ["x", "y"], "rewards": [1, 5]}])
    second = put(tmp_path / "second.jsonl", [{"prompt": "a", "completions": ["p", "q"], "scores": [3, 2]}])
    found = evaluated(tmp_path, "win_rate", "--results", first, second, "--scorer", "recorded")
    assert [row["outcome"] for row in lines(tmp_path / "win_rate.jsonl")] == ["loss", "win"]
    assert found["win_rate"] == 0.5
    bare = put(tmp_path / "bare.jsonl", [{"prompt": "a", "completions": ["p", "q"]}])
    words = ["--eval_type", "win_rate", "--results", str(first), str(bare), "--scorer", "recorded"]
    assert perform("eval", [*words, "--output_dir", str(tmp_path)]) == 1


def test_pictures_are_known_by_name() -> None:
    said = (Message("user", "<image>what?"),)
    keys = [key_of(Turns(said, (Image(source),))) for source in ("a/1.png", "/b/1.png", "a/2.png", b"1.png")]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


# -- games ------------------------------------------------------------------------------------------------------------


class First:
    """A ranker that prefers what it sees first, unless an answer is empty."""

    def score(self, groups: Any, done: Any) -> None:
        for place, group in enumerate(groups):
            one, other = group.answers
            done(place, [1.0, 0.9] if one and other else [float(bool(one)), float(bool(other))])

    def close(self) -> None:
        """Nothing."""


def group(first: str, second: str) -> Group:
    answers = tuple(Turns((Message("assistant", one),)) for one in (first, second))
    return Group(Row(prompt=Turns((Message("user", "q"),)), completions=answers), {})


@pytest.mark.parametrize(
    ("ranks", "tie", "values"),
    [(True, 0.0, [0.5, 1.0, 0.0]), (False, 0.0, [1.0, 1.0, 0.0]), (False, 0.2, [0.5, 1.0, 0.0])],
)
def test_sides_are_swapped_for_rankers(ranks: bool, tie: float, values: list[float]) -> None:
    card = ScorerCard(name="first", help="", open=lambda run: First(), ranks=ranks)
    played = play(First(), card, [group("a", "b"), group("a", ""), group("", "b")], tie)
    assert [one.value for one in played] == values
    assert [len(one.games) for one in played] == [1 + ranks] * 3


@pytest.mark.parametrize(
    ("games", "outcome"), [((1.0, 1.0), "win"), ((1.0, 0.5), "win"), ((1.0, 0.0), "tie"), ((0.5, 0.0), "loss")]
)
def test_outcomes(games: tuple[float, ...], outcome: str) -> None:
    assert Played(games).outcome == outcome


def test_the_interval_is_that_of_the_mean() -> None:
    values = np.random.RandomState(1).binomial(1, 0.7, 400).tolist()
    low, high = interval(values, rounds=2000, seed=3)
    error = 1.96 * np.std(values) / 20
    assert low == pytest.approx(np.mean(values) - error, abs=0.01)
    assert high == pytest.approx(np.mean(values) + error, abs=0.01)
    assert interval(values, rounds=2000, seed=3) == (low, high) != interval(values, rounds=2000, seed=4)


# -- judges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "worth"),
    [("so [[A]]", 1.0), ("[[B]]", 0.0), ("[[C]] yes [[C]]", 0.5), ("[[A]] or [[B]]", None), ("A is better", None)],
)
def test_verdicts_on_two_answers(reply: str, worth: float | None) -> None:
    assert worth_of(reply) == worth


def sides(text: str) -> tuple[str, str]:
    """The two answers as our questions show them."""
    first, second = re.split(r"# Answer (?:of assistant )?B", re.split(r"# Answer (?:of assistant )?A", text)[1])
    return first.strip(), second.strip()


def longer(text: str) -> str:
    first, second = map(len, sides(text))
    return f"[[{'C' if first == second else 'A' if first > second else 'B'}]]"


@pytest.mark.parametrize(("reply", "counts"), [(longer, (2, 1, 0)), (lambda text: "[[A]]", (0, 3, 0))])
def test_win_rate_under_a_judge(reply: Reply, counts: tuple[int, ...], served: Any, tmp_path: Path) -> None:
    """A judge that always says A knows nothing: with swapped sides that is a tie."""
    first = put(tmp_path / "first.jsonl", [{"prompt": f"{n}", "completions": ["long"]} for n in range(3)])
    second = put(
        tmp_path / "second.jsonl", [{"prompt": f"{n}", "completions": ["long" if n else "s"]} for n in (0, 1)]
        + [{"prompt": "2", "completions": ["s"]}],
    )  # fmt: skip
    judge = ("--judge_model", "j", "--judge_url", served(reply))
    found = evaluated(tmp_path, "win_rate", "--results", first, second, *judge)
    assert (found["wins"], found["ties"], found["losses"]) == counts
    assert found["lower"] <= found["win_rate"] == (counts[0] + counts[1] / 2) / 3 <= found["upper"]


def test_a_judge_without_a_verdict(served: Any, tmp_path: Path) -> None:
    files = [
        put(tmp_path / name, [{"prompt": p, "completions": ["x"]} for p in "ab"]) for name in ("1.jsonl", "2.jsonl")
    ]
    judge = ("--judge_model", "j", "--judge_url", served(lambda text: "[[C]]" if "\na\n" in text else "hm"))
    found = evaluated(tmp_path, "win_rate", "--results", *files, *judge)
    assert (found["judged"], found["errors"], found["ties"]) == (1, 1, 1)
    assert "no verdict" in lines(tmp_path / "win_rate.jsonl")[1]["error"]


# -- benchmarks -------------------------------------------------------------------------------------------------------


def answered(place: Path, bench: str, model: str, turns: dict[Any, list[Any]]) -> Path:
    rows = [
        {"question_id": q, "answer_id": "x", "model_id": model, "choices": [{"index": 0, "turns": t}], "tstamp": 0.0}
        for q, t in turns.items()
    ]
    return put(place / bench / "model_answer" / f"{model}.jsonl", rows)


@pytest.mark.parametrize(
    "case", [one for one in GOLDEN if one["loss"] == "arena_hard_score"], ids=lambda one: one["name"]
)
def test_arena_hard_is_judged_as_the_original_does(case: dict[str, Any], served: Any, tmp_path: Path) -> None:
    """The judge gives the golden judgments; the command's numbers are the golden scores."""
    judgments, params = case["inputs"]["judgments"], case["params"]
    label = {
        (one["model"], one["question_id"], game): played["score"]
        for one in judgments
        for game, played in enumerate(one["games"])
    }

    def reply(text: str) -> str:
        question = re.search(r"^asked (.*)\.$", text, re.MULTILINE)[1]
        first, second = sides(text.partition("Please finish")[0])
        game = 0 if first == "the baseline" else 1
        score = label[((second if game == 0 else first).removeprefix("from "), question, game)]
        return "I do not know." if score is None else f"So [[{score}]]."

    names = sorted({one["question_id"] for one in judgments})
    asked = put(
        tmp_path / "questions.jsonl", [{"question_id": q, "turns": [{"content": f"asked {q}."}]} for q in names]
    )
    base = {q: [{"content": "the baseline", "token_len": 2}] for q in names}
    baseline = answered(tmp_path / "elsewhere", "arena_hard", "base", base)
    judge = ("--judge_model", "j", "--judge_url", served(reply), "--baseline", baseline, "--bootstrap_rounds", 20)
    counting = ("--clear_win_weight", params["weight"], "--first_game_only", params["first_game_only"])
    for model, rate in case["outputs"]["win_rate_percent_vs_baseline"].items():
        own = [one["question_id"] for one in judgments if one["model"] == model]
        answered(tmp_path, "arena_hard", model, {q: [{"content": f"from {model}", "token_len": 7}] for q in own})
        found = evaluated(tmp_path, "arena_hard", "--questions", asked, "--model_id", model, *judge, *counting)
        assert found["win_rate"] == pytest.approx(rate, abs=0.011)
        assert found["lower"] <= found["win_rate"] <= found["upper"]
        assert (found["judged"], found["average_tokens"]) == (len(own), 7)
    written = [
        row for path in (tmp_path / "arena_hard" / "model_judgment" / "j").glob("*.jsonl") for row in lines(path)
    ]
    counted = battles(written, weight=params["weight"], first_game_only=params["first_game_only"])
    assert winner_counts(counted) == case["outputs"]["weighted_winner_counts"]


QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["Write.", "Shorter."]},
    {"question_id": 101, "category": "math", "turns": ["1+1?", "2+2?"], "reference": ["2", "4"]},
]


def test_mt_bench_marks(served: Any, tmp_path: Path) -> None:
    seen = []

    def reply(text: str) -> str:
        seen.append(text)
        if "# Reference answers" in text:
            return "[[9]]" if "## User\n2+2?" in text else "no mark"
        return "[[6.5]]" if "## User\nShorter." in text else "[[4]]"

    asked = put(tmp_path / "questions.jsonl", QUESTIONS)
    judge = ("--judge_model", "gpt-4", "--judge_url", served(reply))
    for model in ("run_iter0", "run_iter1"):
        answered(tmp_path, "mt_bench", model, {81: ["a poem", "poem"], 101: ["2", "5"]})
        found = evaluated(tmp_path, "mt_bench", "--questions", asked, "--model_id", model, *judge)
    assert (found["judged"], found["without_mark"]) == (4, 1)
    assert (found["score_first"], found["score_second"], found["score_both"]) == (4.0, 7.75, 6.5)
    rows = lines(tmp_path / "mt_bench" / "model_judgment" / "gpt-4_single.jsonl")
    assert {(row["model"], row["question_id"], row["turn"]) for row in rows} == {
        (model, q, turn) for model in ("run_iter0", "run_iter1") for q in (81, 101) for turn in (1, 2)
    }
    assert mt_bench.averages(rows)["run_iter1"]["both"] == 6.5
    second = next(text for text in seen if "## User\n2+2?" in text)
    assert "# Reference answers\n2\n\n4" in second
    assert second.index("1+1?") < second.index("## Assistant\n2") < second.index("2+2?")
    table = evaluated(tmp_path, "summary")
    assert [(row["Iteration"], row["MT-Bench (GPT-4)"]) for row in table["rows"]] == [("iter0", 6.5), ("iter1", 6.5)]


@pytest.mark.parametrize("mode", ["pairwise-baseline", "pairwise-all"])
def test_mt_bench_games(mode: str, served: Any, tmp_path: Path) -> None:
    def reply(text: str) -> str:
        first, second = text.split("# Conversation with assistant B")
        return "[[C]]" if "2+2?" in text else "[[A]]" if "good" in first and "good" not in second else "[[B]]"

    asked = put(tmp_path / "questions.jsonl", QUESTIONS)
    answered(tmp_path, "mt_bench", "m", {81: ["good", "good"], 101: ["good", "good"]})
    place = tmp_path if mode == "pairwise-all" else tmp_path / "elsewhere"
    other = answered(place, "mt_bench", "other", {81: ["bad", "bad"], 101: ["bad", "bad"]})
    baseline = ("--baseline", other) if mode == "pairwise-baseline" else ()
    judge = ("--judge_model", "j", "--judge_url", served(reply), "--judge_mode", mode, *baseline)
    found = evaluated(tmp_path, "mt_bench", "--questions", asked, "--model_id", "m", *judge)
    assert found["win_rates"]["m"] == {"win": 3, "loss": 0, "tie": 1, "win_rate": 0.875}
    assert ("other" in found["win_rates"]) == (mode == "pairwise-all")
    rows = lines(tmp_path / "mt_bench" / "model_judgment" / "j_pair.jsonl")
    assert {(row["g1_winner"], row["g2_winner"]) for row in rows} == {("model_1", "model_1"), ("tie", "tie")}


def test_alpaca_eval_annotations(served: Any, tmp_path: Path) -> None:
    asked = put(tmp_path / "questions.json", [{"instruction": f"Say {n}."} for n in range(3)])
    mine = [{"instruction": f"Say {n}.", "output": "x" * n, "generator": "run_iter3"} for n in range(3)]
    put(tmp_path / "alpaca_eval" / "run_iter3.json", mine)
    theirs = [{"instruction": f"Say {n}.", "output": "y", "generator": "davinci"} for n in (2, 1, 0)]
    baseline = put(tmp_path / "baseline.json", theirs)
    judge = ("--judge_model", "j", "--judge_url", served(longer), "--baseline", baseline)
    found = evaluated(tmp_path, "alpaca_eval", "--questions", asked, "--model_id", "run_iter3", *judge)
    assert (found["wins"], found["ties"], found["losses"], found["mean_length"]) == (1, 1, 1, 1.0)
    rows = json.loads((tmp_path / "alpaca_eval" / "annotations" / "run_iter3.json").read_text())
    assert [row["preference"] for row in rows] == [1.0, 1.5, 2.0]
    assert (rows[0]["generator_1"], rows[0]["output_2"]) == ("davinci", "")
    row = evaluated(tmp_path, "summary", "--all_columns", "true")["rows"][0]
    assert (row["Iteration"], row["AlpacaEval (win %)"], row["AlpacaEval (n_total)"]) == ("iter3", 50.0, 3.0)
    assert row["AlpacaEval (std)"] == pytest.approx(50 / 3**0.5, abs=0.01)


def test_the_golden_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = next(one for one in GOLDEN if one["loss"] == "summary_table")
    for name, text in case["inputs"]["files"].items():
        path = tmp_path / "log" / "evaluation" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = evaluated(tmp_path / "out", "summary", "--log_folder", tmp_path / "log")
    columns = case["outputs"]["columns"]
    rows = [[row.get(column) for column in columns] for row in found["rows"]]
    assert rows == [[None if value == "" else value for value in row] for row in case["outputs"]["rows"]]
    assert (tmp_path / "out" / "summary.md").read_text() in capsys.readouterr().out


# -- flags ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--eval_type: what is measured"),
        (("--eval_type", "reward"), "--dataset: on which rows"),
        (("--eval_type", "preference", "--dataset", "x", "--learning_rate", "1"), "belongs to"),
        (("--eval_type", "preference", "--dataset", "x", "--streaming", "true"), "--streaming is for training"),
        (("--eval_type", "summary", "--beta", "1"), "--beta goes with --eval_type preference"),
        (("--eval_type", "win_rate", "--results", "x"), "give two files"),
        (("--eval_type", "win_rate", "--results", "x", "y", "--scorer", "compare"), "which model judges"),
        (("--eval_type", "arena_hard", "--model_id", "m"), "the file of arena_hard's questions"),
        (("--eval_type", "mt_bench", "--questions", "q"), "which model answers"),
        (("--eval_type", "arena_hard", "--model_id", "m", "--questions", "q", "--judge_model", "j"), "--baseline"),
        (("--eval_type", "mt_bench", "--model_id", "m", "--questions", "q", "--judge_url", "u"), "give --judge_model"),
        (("--eval_type", "lm_eval", "--model_type", "tiny-llama"), "which tasks"),
    ],
)
def test_what_is_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError) as caught:
        perform("eval", [*words])
    assert said in str(caught.value)
