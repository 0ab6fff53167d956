"""`swiftlike score`: verdicts of rules, rankers and judges, and what is written of them."""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from swiftlike.cli.app import perform
from swiftlike.cli.commands import load
from swiftlike.cli.layers import build_run
from swiftlike.core.errors import UserError
from swiftlike.core.optional import available
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.kinds import LeftOut, to_kind
from swiftlike.datasets_registry.shapes import to_row
from swiftlike.pipelines.judges import SCORERS, Group
from swiftlike.pipelines.judges.judge import mark_of, prompt_of
from swiftlike.pipelines.judges.pairs import Classifier, PairwiseScorer
from swiftlike.pipelines.judges.rule import equals, from_python, matches, normal
from swiftlike.pipelines.records import Numbered
from swiftlike.pipelines.score_rows import Judged, Writer, group_of, judged

EXO = {"prompt": "Name a fruit.", "completions": ["plum", "saw", "fruit"]}
APO = {"query_id": "a:1", "query": "Name a fruit.", "sample_0": "plum", "sample_1": "saw", "sample_2": "fruit"}
AIPO = {
    "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Name a fruit."}],
    "prompt": "Name a fruit.",
    "responses": ["plum", "saw", "fruit"],
}
CHAT = {
    "prompt": [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "Name a fruit."},
    ],
    "completions": ["plum", "saw", "fruit"],
}
TRANSCRIPT = {"prompt": "\n\nHuman: Name a fruit.\n\nAssistant:", "completions": [" plum", " saw", " fruit"]}


class _Known:
    """A source without a card."""

    class wanted:  # noqa: N801
        card = None

    columns: dict[str, str] = {}


def group(record: dict[str, Any], origin: str = "rows.jsonl:1") -> Group:
    return group_of(Numbered(0, record, origin, _Known()), None)


def verdict(record: dict[str, Any], *scores: float | None, penalty: float = 0.0) -> Judged:
    return judged(group(record), scores, len, penalty)


def put(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in rows))
    return path


def get(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# -- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", [EXO, APO, AIPO, CHAT, EXO | {"rewards": [9, 9, 9]}], ids=str)
def test_answers_of_every_format_are_found(record: dict[str, Any]) -> None:
    found = group(record)
    assert found.answers == ["plum", "saw", "fruit"]
    assert found.prompt.endswith("Name a fruit.")
    assert found.conversation(1).messages[-1].content == "saw"


@pytest.mark.parametrize("record", [TRANSCRIPT, {"query": TRANSCRIPT["prompt"], "sample_0": "plum", "query_id": 1}])
def test_transcripts_are_read_as_training_reads_them(record: dict[str, Any]) -> None:
    assert [(m.role, m.content) for m in group(record).row.prompt.messages] == [("user", "Name a fruit.")]


@pytest.mark.parametrize("record", [{"prompt": "q"}, {"nothing": 1}, {"prompt": "q", "completions": []}])
def test_rows_without_answers_say_so(record: dict[str, Any]) -> None:
    with pytest.raises(BadRow):
        group(record)


# -- what is written --------------------------------------------------------------------------------------------------


def test_rewards_stand_beside_the_answers() -> None:
    write = Writer("rewards", Path())
    assert write(verdict(EXO, 3, 1, 2)) == EXO | {"rewards": [3, 1, 2]}
    assert write(verdict(AIPO | {"scores": [0, 0, 0], "ranks": [1, 1, 1]}, 3, 1, 2)) == AIPO | {"rewards": [3, 1, 2]}
    assert write(verdict(APO, 3, 1, 2)) == {"query_id": "a:1"} | EXO | {"rewards": [3, 1, 2]}
    assert Writer("rewards", Path(), ranks=True)(verdict(EXO, 3, 1, 1))["ranks"] == [1, 2, 2]
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    assert write(verdict(pair, 1, 2)) == {"prompt": "q", "completions": ["a", "b"], "rewards": [1, 2]}


def test_answers_that_cannot_be_trained_on_are_left_out_and_counted() -> None:
    write = Writer("rewards", Path())
    record = EXO | {"completions": ["plum", " ", "fruit"]}
    assert write(verdict(record, 1, 2, None)) == EXO | {"completions": ["plum"], "rewards": [1]}
    assert write.gone == {"blank": 1, "without a score": 1}
    with pytest.raises(LeftOut, match="not blank"):
        write(verdict(record, None, 2, None))


def test_the_best_answer_is_the_first_of_the_best_and_never_blank() -> None:
    write = Writer("best_of_n", Path())
    assert write(verdict(EXO, 1, 2, 2)) == {"query": "Name a fruit.", "response": "saw"}
    assert write(verdict(EXO | {"completions": [" ", "b", ""]}, 9, -1, 8))["response"] == "b"
    assert write(verdict(AIPO, None, 1, 0)) == {"system": "s", "query": "Name a fruit.", "response": "saw"}
    assert write(verdict(CHAT, 1, 0, 0))["history"] == [["Hello.", "Hi!"]]
    assert write(verdict(TRANSCRIPT, 1, 0, 0)) == {"query": "Name a fruit.", "response": "plum"}
    with pytest.raises(LeftOut):
        write(verdict(EXO | {"completions": [" ", "", "\n"]}, 1, 2, 3))


def test_rejection_keeps_the_samples_and_all_scores() -> None:
    write = Writer("rejection", Path())
    scores = {"sample_0": 1, "sample_1": 3, "sample_2": 2}
    assert write(verdict(APO, 1, 3, 2)) == APO | {"target": "saw", "scores": scores}
    made = write(verdict(EXO, 1, 3, 2))
    assert made == {**APO, "query_id": "rows.jsonl:1", "target": "saw", "scores": scores}
    text = write(verdict(TRANSCRIPT, 1, 3, 2))
    assert (text["query"], text["target"]) == (TRANSCRIPT["prompt"], " saw")


def test_pairs_are_the_best_against_the_worst() -> None:
    write = Writer("pairs", Path())
    pair = write(verdict(AIPO, 1, 3, 2))
    assert pair["prompt"] == "Name a fruit."
    assert pair["chosen"] == [*AIPO["messages"], {"role": "assistant", "content": "saw"}]
    assert pair["rejected"] == [*AIPO["messages"], {"role": "assistant", "content": "plum"}]
    assert write(verdict(CHAT, 1, 3, 2))["chosen"] == [*CHAT["prompt"], {"role": "assistant", "content": "saw"}]
    assert write(verdict(TRANSCRIPT, 1, 3, 2))["chosen"][-1]["content"] == "saw"


@pytest.mark.parametrize("record", [EXO, AIPO, CHAT, TRANSCRIPT, APO], ids=str)
def test_pairs_train(record: dict[str, Any]) -> None:
    row, mapping = to_row(Writer("pairs", Path())(verdict(record, 1, 3, 2)), "pair")
    assert (mapping.kind, row.size) == ("pair", 2)
    assert len(to_kind(row, "pair")) == 1
    assert [turns.messages[-1].content for turns in row.completions] == ["saw", "plum"]


@pytest.mark.parametrize(
    ("system", "record", "expected"),
    [
        ("keep", EXO, None),
        ("add", EXO, ""),
        ("empty", EXO, ""),
        ("keep", AIPO, "s"),
        ("add", AIPO, "s"),
        ("empty", AIPO, ""),
    ],
)
def test_system_messages_of_pairs(system: Any, record: dict[str, Any], expected: str | None) -> None:
    first = Writer("pairs", Path(), system)(verdict(record, 1, 3, 2))["chosen"][0]
    assert first == ({"role": "user", "content": "Name a fruit."} if expected is None else _system(expected))


def _system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


@pytest.mark.parametrize(
    ("scores", "chosen", "rejected"),
    [((2, 1, 1), "plum", "saw"), ((1, 2, 2), "saw", "plum"), ((None, 1, 2), "fruit", "saw")],
)
def test_among_equals_the_first_is_taken(scores: Any, chosen: str, rejected: str) -> None:
    pair = Writer("pairs", Path())(verdict(EXO, *scores))
    assert (pair["chosen"][-1]["content"], pair["rejected"][-1]["content"]) == (chosen, rejected)


@pytest.mark.parametrize(
    ("answers", "scores", "reason"),
    [
        (["a", "b"], (1, 1), "a tie"),
        (["a", "b"], (1, None), "fewer than two"),
        (["a", " "], (1, 2), "fewer than two"),
        (["a", "a "], (1, 2), "chosen equals rejected"),
    ],
)
def test_what_makes_no_pair_is_left_out_with_a_reason(answers: list[str], scores: Any, reason: str) -> None:
    with pytest.raises(LeftOut, match=reason):
        Writer("pairs", Path())(verdict({"prompt": "q", "completions": answers}, *scores))


def test_length_penalty_changes_rewards_and_ranks() -> None:
    found = verdict(EXO, 1.0, 0.9, None, penalty=0.2)  # 4 and 3 tokens
    assert found.scores == (pytest.approx(0.2), pytest.approx(0.3), None)
    assert found.ranks == (2, 1, None)


def test_pictures_are_found_from_the_output(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"x")
    record = {"prompt": "<image>What?", "images": ["a.png"], "completions": ["a", "b"]}
    found = judged(group(record, f"{tmp_path}/in/rows.jsonl:1"), (1, 2), None, 0.0)
    assert Writer("rewards", tmp_path)(found)["images"] == ["in/a.png"]
    assert Writer("pairs", tmp_path / "in")(found)["images"] == ["a.png"]
    assert Writer("best_of_n", tmp_path / "out")(found)["images"] == [str(tmp_path / "in" / "a.png")]


# -- rules ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("  Paris. ", "paris", True),
        ("New\n York", "new york", True),
        ("1,000", "1000.0", True),
        ("$ 5", "5.00", True),
        ("12 %", "12", True),
        ("-0.50", "-.5", True),
        ("so 7 of them\n#### 42", "42", True),
        ("1e3", "1000", False),
        ("5", "50", False),
        ("Paris, France", "Paris", False),
        ("", "0", False),
        (",", ",", True),
    ],
)
def test_what_does_not_matter_in_an_answer(one: str, other: str, same: bool) -> None:
    assert (normal(one) == normal(other)) is same


@pytest.mark.parametrize(
    ("answer", "pattern", "right"),
    [
        ("4", None, True),
        ("It is 4", None, False),
        ("answer is 5, no: answer is 4.", r"answer is (\S+)", True),
        ("nothing", r"answer is (\S+)", False),
        ("3 4", r"\d", True),
    ],
)
def test_the_right_answer(answer: str, pattern: str | None, right: bool) -> None:
    assert equals("result", pattern)("q", answer, {"result": 4}) is right


def test_rules() -> None:
    assert matches("^b")("q", "a\nb", {})
    assert not matches("^b")("q", "ab", {})
    with pytest.raises(UserError, match="--regex"):
        matches("(")
    with pytest.raises(BadRow, match="no column 'result'"):
        equals("result")("q", "a", {"query": 1})


RULE = """
def length(prompt, answer, row):
    return len(answer) - len(prompt)
def truth(prompt, answer, row):
    return row["query"] == prompt
def none(prompt, answer, row):
    return None
def text(prompt, answer, row):
    return "5"
def broken(prompt, answer, row):
    return 1 / 0
"""


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("length", [1.0]),
        ("truth", [1.0]),
        ("none", [None]),
        ("text", "not a score"),
        ("broken", "the rule failed: ZeroDivisionError"),
    ],
)
def test_a_function_judges(tmp_path: Path, function: str, expected: Any) -> None:
    (tmp_path / "judge_it.py").write_text(RULE)
    words = ["d", "--output", "o.jsonl", "--rule", f"{tmp_path / 'judge_it.py'}:{function}"]
    scorer = SCORERS.get("rule").open(build_run(load("score"), words, {})[0])
    got: list[Any] = []
    scorer.score([group({"query": "abc", "response": "abcd"})], lambda place, scores: got.append(scores))
    assert got == [expected] if not isinstance(expected, str) else got[0].startswith(expected)


@pytest.mark.parametrize("path", ["nowhere", "gone.py:f", "json:gone", "no_such_module:f"])
def test_functions_that_are_not_there(path: str) -> None:
    with pytest.raises(UserError, match="--rule"):
        from_python(path)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (EXO | {"rewards": [1, 2.5, None]}, [1.0, 2.5, None]),
        (APO | {"scores": {"sample_2": 3, "sample_0": 1}}, [1.0, None, 3.0]),
        (EXO, "no scores"),
        (EXO | {"rewards": [1]}, "scores do not match answers"),
        (EXO | {"rewards": [1, 2, "x"]}, "not a score"),
    ],
    ids=str,
)
def test_scores_that_are_there_are_taken(record: dict[str, Any], expected: Any) -> None:
    got: list[Any] = []
    run, _ = build_run(load("score"), ["d", "--output", "o.jsonl", "--scorer", "recorded"], {})
    SCORERS.get("recorded").open(run).score([group(record)], lambda _, scores: got.append(scores))
    assert got[0] == expected if not isinstance(expected, str) else got[0].startswith(expected)


# -- rankers ----------------------------------------------------------------------------------------------------------


def scores_of(compare: Callable[..., list[float]], *answers: str) -> list[float | None]:
    got: list[Any] = []
    PairwiseScorer(compare).score(
        [group({"prompt": "q", "completions": list(answers)})], lambda _, one: got.append(one)
    )
    return got[0]


def test_a_ranker_is_asked_both_ways() -> None:
    longer = scores_of(lambda asked: [float(len(a) > len(b)) for _, a, b in asked], "aa", "a", "aaa")
    assert longer == [0.5, 0.0, 1.0]
    assert scores_of(lambda asked: [0.9] * len(asked), "a", "b", "c") == pytest.approx([0.5] * 3)  # it likes a side
    assert scores_of(lambda asked: [math.nan] * len(asked), "a", "b") == [None, None]
    assert scores_of(lambda asked: [], "a") == [0.5]


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny classifier with one label."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    from swiftlike.models.tiny import build

    folder = tmp_path_factory.mktemp("ranker")
    tokenizer = AutoTokenizer.from_pretrained(build("tiny-llama"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def classifier(folder: Path, *flags: str) -> Classifier:
    words = ["d", "--output", "o.jsonl", "--scorer", "pairwise", "--model", str(folder), *flags]
    return SCORERS.get("pairwise").open(build_run(load("score"), words, {})[0]).compare


def test_a_classifier_compares_whatever_stands_beside(ranker: Path) -> None:
    asked = [("q", "a b c", "d"), ("a longer question", "e", "f g"), ("q", "d", "a b c")]
    together = classifier(ranker)(asked)
    apart = classifier(ranker, "--pair_batch_size", "1")(asked)
    assert together == pytest.approx(apart, abs=1e-5)
    assert len(set(apart)) == 3
    assert all(0 < chance < 1 for chance in apart)


def test_long_texts_are_cut_and_answers_keep_their_beginning(ranker: Path) -> None:
    compare = classifier(ranker, "--pair_template", "{prompt}|{first}|{second}", "--pair_max_length", "32")
    ids = compare.ids("old " * 50 + "new", "first " * 50, "second " * 50)
    text = compare.tokenizer.decode(ids)
    assert len(ids) <= 32
    assert "new|first first" in text
    assert "|second second" in text
    assert len(compare.ids("a", "b", "c")) < 32


def test_pairrm_needs_its_package() -> None:
    if available("llm_blender"):
        pytest.skip("llm-blender is installed")
    run, _ = build_run(load("score"), ["d", "--output", "o.jsonl", "--scorer", "pairrm"], {})
    with pytest.raises(UserError, match=r"pip install 'swiftlike\[pairrm\]'"):
        SCORERS.get("pairrm").open(run)


# -- judges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "mark"),
    [
        ("Good. [[7]]", 7.0),
        ("[[3]] at first, but then [[ 8.5 ]]", 8.5),
        ("[[8/10]]", 8.0),
        ('{"score": 4, "why": "2 errors"}', 4.0),
        ('{"rating": "-1.5"}', -1.5),
        ("Rating: 6", 6.0),
        ("**Score**: 9", 9.0),
        (" 5 ", 5.0),
        ("7/10.", 7.0),
        ("There are 3 errors in it", None),
        ("", None),
    ],
)
def test_marks(reply: str, mark: float | None) -> None:
    assert mark_of(reply) == mark


def test_prompts_of_judges(tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text("Q {prompt} A {answer}")
    assert prompt_of(str(path)) == "Q {prompt} A {answer}" == prompt_of("Q {prompt} A {answer}")
    with pytest.raises(UserError, match=r"no \{answer\} in it"):
        prompt_of("Is it good?")


Reply = Callable[[dict[str, Any], int], tuple[int, Any]]


class Served:
    """A judge that answers over HTTP by a function of the request and of how many came before."""

    def __init__(self, reply: Reply) -> None:
        self.asked: list[dict[str, Any]] = []
        served, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    count = len(served.asked)
                    served.asked.append(body)
                code, answer = reply(body, count)
                data = answer if isinstance(answer, bytes) else json.dumps(_as_openai(answer)).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(data)

            def log_message(self, *words: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def _as_openai(answer: Any) -> Any:
    if not isinstance(answer, str):
        return {"error": {"message": "no"}} if answer is None else answer
    message = {"role": "assistant", "content": answer}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "j", "choices": choices}


@pytest.fixture
def serve() -> Iterator[Callable[[Reply], Served]]:
    running: list[Served] = []

    def start(reply: Reply) -> Served:
        running.append(Served(reply))
        return running[-1]

    yield start
    for one in running:
        one.server.shutdown()
        one.server.server_close()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWIFTLIKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def score(data: Path, url: str, *flags: str, output: str = "out.jsonl", retries: int = 2) -> int:
    judge = ["--judge_model", "j", "--judge_url", url, "--judge_retries", str(retries), "--judge_timeout", "20"]
    return perform("score", [str(data), "--output", output, *judge, *flags])


def by_length(body: dict[str, Any], _: int) -> tuple[int, str]:
    return 200, f"fine [[{len(body['messages'][-1]['content'].rpartition('A:')[2])}]]"


ASK = ("--judge_prompt", "Q:{prompt} R:{result} A:{answer}")


def test_a_judge_marks_every_answer(place: Path, serve: Any) -> None:
    judge = serve(by_length)
    data = put(place / "rows.jsonl", EXO | {"result": {"x": 1}}, {"prompt": "2 {answer}", "completions": ["aa", "b"]})
    flags = [*ASK, "--judge_system", "Be fair.", "--judge_params", '{"top_p": 0.5}']
    assert score(data, judge.url, *flags) == 0
    assert [row["rewards"] for row in get(place / "out.jsonl")] == [[4, 3, 5], [2, 1]]
    said = sorted(body["messages"][1]["content"] for body in judge.asked)
    assert said[0] == "Q:2 {answer} R:{result} A:aa"
    assert said[2] == 'Q:Name a fruit. R:{"x": 1} A:fruit'
    first = judge.asked[0]
    assert first["messages"][0] == {"role": "system", "content": "Be fair."}
    assert (first["model"], first["temperature"], first["top_p"]) == ("j", 0.0, 0.5)


def test_replies_are_remembered(place: Path, serve: Any) -> None:
    judge = serve(by_length)
    data = put(place / "rows.jsonl", EXO)
    assert score(data, judge.url, *ASK) == score(data, judge.url, *ASK, output="again.jsonl") == 0
    assert len(judge.asked) == 3
    assert (place / "out.jsonl").read_text() == (place / "again.jsonl").read_text()
    assert score(data, judge.url, *ASK, "--judge_max_tokens", "9", output="other.jsonl") == 0
    assert len(judge.asked) == 6


@pytest.mark.parametrize("code", [500, 503, 429, 408])
def test_failures_are_tried_again(place: Path, serve: Any, code: int) -> None:
    judge = serve(lambda body, count: (code, None) if count == 0 else by_length(body, count))
    data = put(place / "rows.jsonl", {"prompt": "q", "completions": ["a"]})
    assert score(data, judge.url, *ASK) == 0
    assert len(judge.asked) == 2


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ((200, "I cannot judge this"), "no mark in the judge's reply"),
        ((500, None), "the judge failed"),
        ((400, None), "the judge failed"),
        ((200, b"<html>"), "the judge"),
        ((200, {"choices": []}), "the judge said nothing"),
        ((200, ""), "the judge said nothing"),
    ],
    ids=str,
)
def test_one_bad_verdict_is_an_error_of_its_row(place: Path, serve: Any, bad: Any, reason: str) -> None:
    judge = serve(lambda body, n: bad if body["messages"][-1]["content"].endswith("saw") else by_length(body, n))
    data = put(place / "rows.jsonl", EXO, {"prompt": "q", "completions": ["a", "bb"]}, "no json")
    assert score(data, judge.url, *ASK, retries=0) == 0
    assert [row["rewards"] for row in get(place / "out.jsonl")] == [[1, 2]]
    first, second = get(place / "out.errors.jsonl")
    assert (first["origin"], second["origin"]) == (f"{data}:1", f"{data}:3")
    assert first["error"].startswith(reason)


@pytest.mark.parametrize("code", [401, 403, 404])
def test_an_endpoint_that_refuses_ends_the_run_at_once(place: Path, serve: Any, code: int) -> None:
    judge = serve(lambda body, count: (code, None))
    data = put(place / "rows.jsonl", *[{"prompt": str(k), "completions": ["a"]} for k in range(40)])
    with pytest.raises(UserError, match="refuses"):
        score(data, judge.url, *ASK, "--judge_concurrency", "1")
    assert len(judge.asked) < 5
    assert not (place / "out.jsonl").exists()


def test_a_run_goes_on_when_the_judge_is_back(place: Path, serve: Any) -> None:
    data = put(place / "rows.jsonl", *[{"prompt": str(k), "completions": ["a"]} for k in range(6)])
    judge = serve(lambda body, count: by_length(body, count) if count < 3 else (401, None))
    with pytest.raises(UserError):
        score(data, judge.url, *ASK, "--judge_concurrency", "1", "--judge_cache", "one.sqlite")
    again = serve(by_length)
    judge.server.RequestHandlerClass.do_POST = again.server.RequestHandlerClass.do_POST
    assert score(data, judge.url, *ASK, "--judge_cache", "two.sqlite") == 0
    assert [row["prompt"] for row in get(place / "out.jsonl")] == list("012345")
    assert len(again.asked) == 3  # what was judged is not asked again, though the cache is another
    assert not (place / "out.jsonl.part").exists()


def test_nobody_there(place: Path) -> None:
    data = put(place / "rows.jsonl", EXO)
    with pytest.raises(UserError, match="does not answer"):
        score(data, "http://127.0.0.1:9/v1", *ASK, retries=0)


def test_pictures_are_shown_to_the_judge(place: Path, serve: Any) -> None:
    judge = serve(lambda body, count: (200, "[[1]]"))
    (place / "a.jpg").write_bytes(b"\xff\xd8")
    good = {"prompt": "See <image>?", "images": ["a.jpg"], "completions": ["a"]}
    assert score(put(place / "rows.jsonl", good, good | {"images": ["gone.jpg"]}), judge.url) == 0
    ((before, image, _),) = [body["messages"][0]["content"] for body in judge.asked]
    assert before["text"].endswith("See ")
    assert image["image_url"]["url"] == "data:image/jpeg;base64,/9g="
    assert get(place / "out.errors.jsonl")[0]["error"].startswith("image is unreadable")


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--scorer", "rule"], "--scorer rule: --rule"),
        (["--scorer", "judge", "--regex", "a"], "--regex: --scorer rule"),
        (["--rule", "a:b", "--regex", "a"], "--scorer rule"),
        (["--scorer", "judge"], "--judge_model"),
        (["--scorer", "pairwise"], "--model"),
        ([], "or see --scorer"),
        (["--regex", "a", "--pair_template", "{prompt}"], "{first}"),
        (["--regex", "a", "--pair_system", "add"], "--write pairs"),
        (["--regex", "a", "--max_length", "3"], "for training"),
    ],
)
def test_flags_that_do_not_fit_are_named(flags: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        build_run(load("score"), ["rows.jsonl", "--output", "out.jsonl", *flags], {})


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--scorer", "rewrad"], "did you mean 'reward'"),
        (["--regex", "a", "--length_penalty", "0.1"], "with whose tokenizer"),
        (["--regex", "a", "--output", "rows.jsonl"], "lies in what is read"),
        (["--regex", "a", "--output", "there.jsonl"], "exists already"),
    ],
)
def test_what_shows_only_later(place: Path, flags: list[str], reason: str) -> None:
    put(place / "there.jsonl", EXO)
    put(place / "rows.jsonl", EXO)
    words = flags if "--output" in flags else [*flags, "--output", "out.jsonl"]
    with pytest.raises(UserError, match=reason):
        perform("score", ["rows.jsonl", *words, *(["--model", "x"] if "rewrad" in words else [])])


def test_length_penalty_takes_the_tokens_of_a_model(place: Path) -> None:
    data = put(place / "rows.jsonl", {"prompt": "q", "completions": ["fruit fruit fruit fruit", "fruit"]})
    flags = ["--regex", "fruit", "--model_type", "tiny-llama", "--length_penalty", "0.01", "--write", "best_of_n"]
    assert perform("score", [str(data), "--output", "out.jsonl", *flags]) == 0
    assert get(place / "out.jsonl") == [{"query": "q", "response": "fruit"}]


def test_nothing_to_write_is_an_error(place: Path) -> None:
    data = put(place / "rows.jsonl", {"prompt": "q", "completions": ["a", "b"]})
    assert perform("score", [str(data), "--output", "out.jsonl", "--regex", "x", "--write", "pairs"]) == 1
    assert not (place / "out.jsonl").exists()
    assert perform("score", [str(data), "--output", "out.jsonl", "--regex", "x", "--write", "rewards"]) == 0
