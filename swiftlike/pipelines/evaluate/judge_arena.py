"""Arena-Hard: two games of every question against the baseline, and the scores of all models that were judged."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.core.files import write_jsonl
from swiftlike.core.merge import Run
from swiftlike.pipelines.evaluate.answers import mean_length, read_rows, text_of
from swiftlike.pipelines.evaluate.asking import Judge, judge_of, write_report
from swiftlike.pipelines.evaluate.results import Values, folder_of
from swiftlike.pipelines.judges.judge import compiled, filled
from swiftlike.stages.evaluation import arena_hard

Row = Mapping[str, Any]
SYSTEM = """You judge two answers to one question and say which is better. Look at whether they are correct, whether
they do what was asked, and whether they are clear and no longer than needed. The order of the answers must not count.
Explain your judgement in a few sentences and end with exactly one of these labels:
[[A>>B]] A is much better; [[A>B]] A is a little better; [[A=B]] they are about equal; [[B>A]] B is a little better;
[[B>>A]] B is much better."""
PROMPT = "# Question\n{question}\n\n# Answer of assistant A\n{first}\n\n# Answer of assistant B\n{second}\n"


def judge(run: Run, questions: Sequence[Row], rows: Sequence[Row], model_id: str) -> Values:
    """Write the judgments of this model and the report over all that the judge has seen."""
    baseline = read_rows(run.eval.baseline)
    name = _one_model(baseline, run.eval.baseline)
    theirs = {row["question_id"]: row for row in baseline}
    mine = {row["question_id"]: row for row in rows}
    both = [one for one in questions if one["question_id"] in mine and one["question_id"] in theirs]
    if not both:
        raise UserError(f"--baseline {run.eval.baseline} answers none of the questions")
    compiled(run.judge.judge_pattern)
    with judge_of(run) as asked:
        judgments = asked.each(
            [
                functools.partial(_judgment, run, asked, one, (theirs[one["question_id"]], mine[one["question_id"]]))
                for one in both
            ]
        )
    folder = folder_of(run) / "arena_hard" / "model_judgment" / asked.name
    write_jsonl(folder / f"{model_id}.jsonl", [{**one, "model": model_id} for one in judgments])
    tokens = {model_id: arena_hard.mean_tokens(rows), name: _tokens(baseline)}
    scores = _scores(run, folder, name, tokens)
    report = write_report(folder_of(run), "arena_hard.txt", "".join(f"{one.line()}\n" for one in scores))
    own = next((one for one in scores if one.model == model_id), None)
    values: Values = {"baseline": name, "judge": asked.name, "judged": len(judgments)}
    values |= {"judge_errors": asked.errors.total()}
    values |= {"without_verdict": sum(game["score"] is None for one in judgments for game in one["games"])}
    if own is not None:
        values |= {"win_rate": own.win_rate, "lower": own.lower, "upper": own.upper, "elo": own.elo}
        values |= {"average_tokens": own.tokens, "mean_length": mean_length(_text(row) for row in rows)}
    return values | {"report": str(report)}


def _one_model(rows: Sequence[Row], path: str) -> str:
    names = {str(row.get("model_id")) for row in rows if "question_id" in row and "choices" in row}
    if len(names) != 1:
        raise UserError(f"--baseline {path} is not a file of one model's answers", hint="wanted are Arena-Hard's rows")
    return names.pop()


def _text(row: Row) -> str:
    return text_of(row["choices"][0]["turns"][0])


def _tokens(rows: Sequence[Row]) -> int:
    """Mean length of the baseline's answers; 0 where its file does not say."""
    said = [row for row in rows if isinstance(row["choices"][0]["turns"][0], Mapping)]
    return arena_hard.mean_tokens([row for row in said if "token_len" in row["choices"][0]["turns"][0]])


def _judgment(run: Run, judge: Judge, question: Row, sides: tuple[Row, Row]) -> dict[str, Any]:
    """The first game shows the baseline as assistant A, the second the model."""
    pattern = run.judge.judge_pattern or arena_hard.PATTERN
    games = []
    for first, second in (sides, sides[::-1]):
        said = {"question": text_of(question["turns"][0]), "first": _text(first), "second": _text(second)}
        text = filled(PROMPT, {}, said)
        game = arena_hard.judge_game(judge.chat(text, SYSTEM), judge.ask, pattern=pattern)
        games.append({"user_prompt": text, **game})
    return {"question_id": question["question_id"], "judge": judge.name, "games": games}


def _scores(run: Run, folder: Path, baseline: str, tokens: dict[str, int]) -> list[arena_hard.Score]:
    args, rounds = run.eval, run.eval.bootstrap_rounds
    judgments = arena_hard.read_judgments(folder.glob("*.jsonl"))
    found = arena_hard.battles(judgments, weight=args.clear_win_weight, first_game_only=args.first_game_only)
    answers = folder_of(run) / "arena_hard" / "model_answer"
    known = {path.stem: path for path in answers.glob("*.jsonl")}
    others = {one.model for one in found} & known.keys() - tokens.keys()
    tokens |= {name: arena_hard.mean_tokens(read_rows(known[name])) for name in others}
    return arena_hard.scores(found, baseline=baseline, tokens=tokens, **({} if rounds is None else {"rounds": rounds}))
