"""A model's answers to questions of several turns, each question kept as soon as it is answered."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Sequence
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.core.log import get_logger
from swiftlike.core.merge import Run
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import Message, Turns
from swiftlike.engines.base import Answer, Engine, Request, Sampling
from swiftlike.pipelines.evaluate.questions import Asked, Bench
from swiftlike.pipelines.infer.batch import adapter_of
from swiftlike.pipelines.journal import ERROR, Journal
from swiftlike.pipelines.serving import Opened, open_engine, sampling

log = get_logger(__name__)
_WINDOW = 64  # questions whose turns are asked together


@dc.dataclass
class _Talk:
    """One of the choices of a question, on its way."""

    asked: Asked
    choice: int
    sampling: Sampling
    said: list[str] = dc.field(default_factory=list)
    error: str = ""

    @property
    def open(self) -> bool:
        return not self.error and len(self.said) < len(self.asked.users)

    @property
    def prompt(self) -> Turns:
        """The conversation up to the next thing that the user says."""
        users, turns = self.asked.users, []
        for user, answer in zip(users, self.said, strict=False):
            turns += [Message("user", user), Message("assistant", answer)]
        return Turns((*turns, Message("user", users[len(self.said)])))


class Generate:
    """Answers questions and keeps their rows: `keep` is told (question, row or {"error"})."""

    def __init__(self, run: Run, bench: Bench, opened: Opened, model_id: str) -> None:
        if opened.reward:
            raise UserError("a reward model does not answer", hint="--eval_type reward measures it")
        self.run, self.bench, self.opened, self.model_id = run, bench, opened, model_id
        self.given = sampling(run)
        self.adapter = adapter_of(opened)
        self.engine: Engine = open_engine(run, opened)

    def __call__(self, questions: Sequence[tuple[Asked, str]], kept: Journal) -> None:
        """Answer these questions, each with the digest that the journal knows it by."""
        for start in range(0, len(questions), _WINDOW):
            part = questions[start : start + _WINDOW]
            talks = [self._talk(one, choice) for one, _ in part for choice in range(self.run.eval.num_choices)]
            marks = {one.number: mark for one, mark in part}
            keep = self._keeper(talks, marks, kept)
            for talk in talks:
                if talk.error:
                    keep(talk)
            while waiting := [talk for talk in talks if talk.open]:
                self._next_turn(waiting, keep)
            log.info("%d of %d questions", min(start + _WINDOW, len(questions)), len(questions))

    def close(self) -> None:
        """Give the weights back."""
        self.engine.close()

    def _talk(self, asked: Asked, choice: int) -> _Talk:
        talk = _Talk(asked, choice, self.given)
        try:
            tokens = self.engine.count(Request(prompt=talk.prompt, adapter=self.adapter))
            own = self.bench.sampling(asked.question, tokens)
        except (ValueError, BadRow) as error:
            talk.error = str(error)
            return talk
        values = {name: value for name, value in own.items() if getattr(self.given, name) is None}
        seed = self.bench.seed(self.given.seed, asked.number, choice)
        talk.sampling = dc.replace(self.given, **values, seed=seed)
        return talk

    def _next_turn(self, talks: Sequence[_Talk], keep: Callable[[_Talk], None]) -> None:
        requests = [Request(prompt=talk.prompt, sampling=talk.sampling, adapter=self.adapter) for talk in talks]

        def done(place: int, answer: Answer) -> None:
            talk = talks[place]
            if answer.completions:
                talk.said.append(answer.completions[0].text)
            else:
                talk.error = answer.error or "no answer"
            if not talk.open:
                keep(talk)

        self.engine.generate(requests, done)

    def _keeper(self, talks: Sequence[_Talk], marks: dict[int, str], kept: Journal) -> Callable[[_Talk], None]:
        """What is told of each choice that is complete, and keeps a question when all of its choices are."""
        of_question: dict[int, list[_Talk]] = {}
        for talk in talks:
            of_question.setdefault(talk.asked.number, []).append(talk)
        left = {number: len(found) for number, found in of_question.items()}

        def keep(talk: _Talk) -> None:
            number = talk.asked.number
            left[number] -= 1
            if not left[number]:
                kept.add(number, marks[number], self._value(of_question[number]))

        return keep

    def _value(self, talks: Sequence[_Talk]) -> dict[str, Any]:
        asked = talks[0].asked
        error = next((talk.error for talk in talks if talk.error), "")
        if error:
            return {ERROR: error, "origin": asked.origin}
        row = self.bench.row(asked.question, [talk.said for talk in talks], self.model_id, self._count)
        return {"record": row, "origin": asked.origin}

    def _count(self, text: str) -> int:
        tokenizer = self.opened.checkpoint.tokenizer
        return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
