"""MT-Bench: marks for both turns, or games against another model, and the report over all models that were judged."""

from __future__ import annotations

import functools
import itertools
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.core.files import read_jsonl, write_jsonl
from swiftlike.core.merge import Run
from swiftlike.pipelines.evaluate.answers import read_rows, text_of
from swiftlike.pipelines.evaluate.asking import Judge, judge_of, write_report
from swiftlike.pipelines.evaluate.results import Values, folder_of
from swiftlike.pipelines.judges.judge import filled
from swiftlike.stages.evaluation import mt_bench

Row = Mapping[str, Any]
Record = dict[str, Any]
SYSTEM = "You judge answers of assistants: whether they help, are correct, go deep enough and are clear."
SINGLE = """Judge the assistant's {which} in the conversation below.{how} Explain your judgement in a few sentences,
then give a mark from 1 to 10 in double square brackets, as in [[5]].
{reference}
{talk}
"""
PAIR = """Two assistants had the conversation below with the same user. Say whose {which} is better.{how} Neither the
order nor the length of the answers must count. Explain your judgement in a few sentences, then end with [[A]] if
assistant A is better, [[B]] if assistant B is better, or [[C]] for a tie.
{reference}
# Conversation with assistant A
{first}

# Conversation with assistant B
{second}
"""
_VERDICT = re.compile(r"\[\[([ABC])\]\]")


def judge(run: Run, questions: Sequence[Row], rows: Sequence[Row], model_id: str) -> Values:
    """Judge in `--judge_mode`. Judgments of other models stay in the judge's file."""
    with judge_of(run) as asked:
        values = (_marks if run.eval.judge_mode == "single" else _games)(run, asked, questions, rows, model_id)
    return {"judge": asked.name, "judge_errors": asked.errors.total(), **values}


def report_name(judge: str) -> str:
    """The report that `--eval_type summary` has a column for."""
    return "mt_bench_gpt_4_turbo.txt" if "turbo" in judge.lower() else "mt_bench.txt"


def _path(run: Run, judge: Judge, kind: str) -> Path:
    return folder_of(run) / "mt_bench" / "model_judgment" / f"{judge.name}_{kind}.jsonl"


def _before(path: Path) -> list[Record]:
    return [row for _, row in read_jsonl(path)] if path.is_file() else []


def _by_question(rows: Sequence[Row]) -> dict[Any, list[str]]:
    """Question to the turns of the first choice, which is the one that is judged."""
    return {row["question_id"]: [text_of(turn) for turn in row["choices"][0]["turns"]] for row in rows}


def _talk(question: Row, answers: Sequence[str]) -> str:
    """A conversation as the judge reads it."""
    users = [text_of(turn) for turn in question["turns"]]
    return "\n\n".join(f"## User\n{user}\n\n## Assistant\n{one}" for user, one in zip(users, answers, strict=False))


def _said(question: Row, turn: int) -> dict[str, str]:
    """What all questions about a turn have in common."""
    right = question.get("reference") or []
    shown = "\n\n".join(text_of(one) for one in right[:turn])
    return {
        "which": "answer" if turn == 1 else "last answer",
        "how": " Compare with the reference answers." if shown else "",
        "reference": f"\n# Reference answers\n{shown}\n" if shown else "",
    }


# -- marks ------------------------------------------------------------------------------------------------------------


def _marks(run: Run, judge: Judge, questions: Sequence[Row], rows: Sequence[Row], model_id: str) -> Values:
    mine = _by_question(rows)
    marks = judge.each(
        [
            functools.partial(_mark, judge, one, mine[one["question_id"]][:turn], model_id)
            for one in questions
            for turn in range(1, len(mine.get(one["question_id"], ())) + 1)
        ]
    )
    path = _path(run, judge, "single")
    found = [*(row for row in _before(path) if row["model"] != model_id), *marks]
    write_jsonl(path, found)
    averages = mt_bench.averages(found)
    report = write_report(folder_of(run), report_name(judge.name), mt_bench.report(averages))
    return {
        "judged": len(marks),
        "without_mark": sum(one["score"] == mt_bench.NO_SCORE for one in marks),
        **{f"score_{column}": score for column, score in averages.get(model_id, {}).items()},
        "report": str(report),
    }


def _mark(judge: Judge, question: Row, answers: Sequence[str], model_id: str) -> Record:
    turn = len(answers)
    text = filled(SINGLE, {}, _said(question, turn) | {"talk": _talk(question, answers)})
    reply = judge.ask(judge.chat(text, SYSTEM))
    return {
        "question_id": question["question_id"],
        "model": model_id,
        "judge": [judge.name, "single"],
        "user_prompt": text,
        "judgment": reply,
        "score": mt_bench.rating(reply),
        "turn": turn,
        "tstamp": time.time(),
    }


# -- games ------------------------------------------------------------------------------------------------------------


def _games(run: Run, judge: Judge, questions: Sequence[Row], rows: Sequence[Row], model_id: str) -> Values:
    models, baseline = {model_id: _by_question(rows)}, None
    if run.eval.judge_mode == "pairwise-baseline":
        theirs = read_rows(run.eval.baseline)
        baseline = str(theirs[0].get("model_id")) if theirs else ""
        if baseline in ("", "None", model_id):
            raise UserError(f"--baseline {run.eval.baseline} is not a file of another model's answers")
        models[baseline] = _by_question(theirs)
    else:
        folder = folder_of(run) / "mt_bench" / "model_answer"
        models |= {path.stem: _by_question(read_rows(path)) for path in sorted(folder.glob("*.jsonl"))}
    if len(models) < 2:
        raise UserError("--judge_mode pairwise-all: there are no answers of another model", hint=f"see {folder}")
    pairs = list(itertools.combinations(models, 2))
    games = judge.each(
        [
            functools.partial(_game, judge, one, turn, {name: models[name][one["question_id"]] for name in pair})
            for pair in pairs
            for one in questions
            for turn in range(1, min(len(models[name].get(one["question_id"], ())) for name in pair) + 1)
        ]
    )
    path = _path(run, judge, "pair")
    fresh = {frozenset(pair) for pair in pairs}
    found = [*(row for row in _before(path) if frozenset((row["model_1"], row["model_2"])) not in fresh), *games]
    write_jsonl(path, found)
    rates = mt_bench.win_rates(found, baseline)
    return {"judged": len(games), "baseline": baseline, "win_rates": rates, "judgments": str(path)}


def _game(judge: Judge, question: Row, turn: int, answers: Mapping[str, Sequence[str]]) -> Record:
    """Two games, the second with swapped sides."""
    first, second = answers
    game: Record = {"question_id": question["question_id"], "model_1": first, "model_2": second}
    for number, (a, b) in enumerate(((first, second), (second, first)), start=1):
        talks = {side: _talk(question, answers[name][:turn]) for side, name in (("first", a), ("second", b))}
        text = filled(PAIR, {}, _said(question, turn) | talks)
        reply = judge.ask(judge.chat(text, SYSTEM))
        said = set(_VERDICT.findall(reply))
        verdict = said.pop() if len(said) == 1 else ""
        model_1 = "A" if number == 1 else "B"
        winner = "error" if not verdict else "tie" if verdict == "C" else "model_1" if verdict == model_1 else "model_2"
        game |= {f"g{number}_winner": winner, f"g{number}_user_prompt": text, f"g{number}_judgment": reply}
    return game | {"judge": [judge.name, "pair"], "turn": turn, "tstamp": time.time()}
