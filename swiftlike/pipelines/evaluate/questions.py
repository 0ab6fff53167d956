"""Questions of AlpacaEval, MT-Bench and Arena-Hard: how they are read, asked, and what an answer's row is."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.core.files import write_jsonl
from swiftlike.data.files import read
from swiftlike.data.report import Reasons
from swiftlike.datasets_registry.card import BadRow
from swiftlike.pipelines.sample import seed_of
from swiftlike.stages.evaluation import alpaca_eval, answers, arena_hard, mt_bench

Question = Mapping[str, Any]
SEED = 42


@dc.dataclass(frozen=True, kw_only=True)
class Bench:
    """A benchmark. `users` are what the user says, turn after turn; `sampling` depends on the question and the tokens
    of its prompt; `seed` on --seed, the question's number and the choice; `row` is made of choices of turns."""

    folder: str  # of the answers, inside --output_dir
    suffix: str
    users: Callable[[Question], list[str]]
    sampling: Callable[[Question, int], Mapping[str, Any]]
    seed: Callable[[int | None, int, int], int]
    row: Callable[[Question, Sequence[Sequence[str]], str, Callable[[str], int]], dict[str, Any]]
    write: Callable[[Path, Sequence[Mapping[str, Any]]], None]

    def path(self, output: Path, model_id: str) -> Path:
        """The file of a model's answers."""
        return output / self.folder / f"{answers.model_name(model_id)}{self.suffix}"


@dc.dataclass(frozen=True)
class Asked:
    """A question that can be asked."""

    number: int
    origin: str
    question: Question
    users: tuple[str, ...]


def read_questions(bench: Bench, path: str, limit: int | None) -> tuple[list[Asked], Reasons]:
    """Questions of a file, and what is wrong with the rows that are none."""
    found: list[Asked] = []
    bad = Reasons()
    for number, (record, origin) in enumerate(read(Path(path).expanduser())):
        if limit is not None and len(found) >= limit:
            break
        try:
            if isinstance(record, BadRow):
                raise record
            found.append(Asked(number, origin, record, tuple(bench.users(record))))
        except BadRow as error:
            bad.add(error.kind, f"{origin}: {error}")
    if not found:
        raise UserError(f"--questions {path}: there is no question in it", problems=bad.as_text().splitlines())
    return found, bad


def _turns(record: Question) -> list[str]:
    """`turns`: texts, or Arena-Hard's `{"content": text}`."""
    turns = record.get("turns")
    said = [one.get("content") if isinstance(one, Mapping) else one for one in turns or ()]
    if "question_id" not in record or not said or not all(isinstance(one, str) and one for one in said):
        raise BadRow("no question", "wanted are question_id and turns, a list of texts")
    return said


def _instruction(record: Question) -> list[str]:
    if not isinstance(record.get("instruction"), str) or not record["instruction"]:
        raise BadRow("no question", "wanted is instruction, a text")
    return [one["content"] for one in alpaca_eval.messages(record)]


def _arena_sampling(question: Question, prompt_tokens: int) -> Mapping[str, Any]:
    room = arena_hard.max_tokens(prompt_tokens)
    if room < 1:
        raise BadRow("prompt is too long", f"{prompt_tokens} tokens leave no room in {arena_hard.CONTEXT}")
    return {**arena_hard.SAMPLING, "max_new_tokens": room}


def _mt_sampling(question: Question, prompt_tokens: int) -> Mapping[str, Any]:
    return {**mt_bench.SAMPLING, "temperature": mt_bench.temperature(question.get("category", ""))}


def _mt_row(
    question: Question, choices: Sequence[Sequence[str]], model_id: str, count: Callable[[str], int]
) -> dict[str, Any]:
    return answers.answer_row(question, model_id, [[one.strip() for one in turns] for turns in choices])


def _arena_row(
    question: Question, choices: Sequence[Sequence[str]], model_id: str, count: Callable[[str], int]
) -> dict[str, Any]:
    turned = [[arena_hard.turn(text, count) for text in turns] for turns in choices]
    return answers.answer_row(question, model_id, turned)


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_jsonl(path, answers.in_order(rows))


def _seed_of_choice(seed: int | None, number: int, choice: int) -> int:
    return (seed or 0) + choice


BENCHES = {
    "alpaca_eval": Bench(
        folder="alpaca_eval",
        suffix=".json",
        users=_instruction,
        sampling=lambda question, tokens: alpaca_eval.SAMPLING,
        seed=lambda seed, number, choice: seed_of(SEED if seed is None else seed, 0, number, choice),
        row=lambda question, choices, model_id, count: alpaca_eval.answer_row(question, choices[0][0], model_id),
        write=alpaca_eval.write,
    ),
    "mt_bench": Bench(
        folder="mt_bench/model_answer",
        suffix=".jsonl",
        users=_turns,
        sampling=_mt_sampling,
        seed=_seed_of_choice,
        row=_mt_row,
        write=_write_lines,
    ),
    "arena_hard": Bench(
        folder="arena_hard/model_answer",
        suffix=".jsonl",
        users=_turns,
        sampling=_arena_sampling,
        seed=_seed_of_choice,
        row=_arena_row,
        write=_write_lines,
    ),
}
