"""Rounds of self-instruct: prompts of all pools to an engine at once, and their answers in a journal."""

from __future__ import annotations

import dataclasses as dc
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run
from swiftlike.engines.base import Answer, Engine, Request
from swiftlike.pipelines.journal import Journal, digest
from swiftlike.pipelines.records import SEED
from swiftlike.pipelines.sample import seed_of
from swiftlike.pipelines.serving import sampling
from swiftlike.stages.self_instruct import Asked

_ROUNDS = 1_000_000  # more than a pool ever has


class Rounds:
    """Answers to the rounds of pools: those that the journal has, and an engine's to the others.

    A journal's row is pool x 1000000 + round; its value is the answers as they were written.
    """

    def __init__(
        self, kept: Journal, engine: Callable[[], Engine], requests: Callable[[int, Asked], list[Request]]
    ) -> None:
        self.kept, self.engine, self.requests = kept, engine, requests
        self.refused: Counter[str] = Counter()  # prompts that cannot be asked (too long ...), by reason

    def __call__(self, asked: Mapping[int, Asked]) -> dict[int, list[str]]:
        """By pool, an answer to each prompt; "" to one that cannot be asked."""
        keys = {pool: (number(pool, one.round), digest([one.prompts, one.stops])) for pool, one in asked.items()}
        if waiting := {pool: one for pool, one in asked.items() if not self.kept.has(*keys[pool])}:
            self._ask(waiting, lambda pool, value: self.kept.add(*keys[pool], value))
        found = {}
        for pool, key in keys.items():
            value = self.kept.get(*key)
            assert value is not None
            self.refused.update(value["refused"])
            found[pool] = value["answers"]
        return found

    def _ask(self, asked: Mapping[int, Asked], keep: Callable[[int, dict[str, Any]], None]) -> None:
        """All pools at once. A pool's round is kept when its last answer is there."""
        engine = self.engine()
        requests = {pool: self.requests(pool, one) for pool, one in asked.items()}
        owners = [(pool, k) for pool, mine in requests.items() for k in range(len(mine))]
        answers: dict[int, dict[int, Answer]] = {pool: {} for pool in asked}
        lock = threading.Lock()

        def take(place: int, answer: Answer) -> None:
            pool, k = owners[place]
            with lock:
                mine = answers[pool]
                mine[k] = answer
                if len(mine) < len(requests[pool]) or any(one.error for one in mine.values()):
                    return
            keep(pool, {"answers": [mine[k].completions[0].text for k in range(len(mine))], "refused": []})

        engine.generate([one for mine in requests.values() for one in mine], done=take)
        for pool, mine in answers.items():
            if any(one.error for one in mine.values()):
                keep(pool, _with_errors(engine, requests[pool], [mine[k] for k in range(len(mine))]))


def _with_errors(engine: Engine, requests: Sequence[Request], answers: Sequence[Answer]) -> dict[str, Any]:
    """A round with errors. UserError when a prompt can be asked and was not answered: another time it is."""
    texts, refused = [], []
    for request, answer in zip(requests, answers, strict=True):
        texts.append("" if answer.error else answer.completions[0].text)
        if not answer.error:
            continue
        try:
            engine.count(request)
        except ValueError:
            refused.append(answer.error.partition(":")[0])
            continue
        raise UserError(f"an answer could not be computed: {answer.error}", hint="the same command goes on from here")
    return {"answers": texts, "refused": refused}


def number(pool: int, round_number: int) -> int:
    """One number for both."""
    return pool * _ROUNDS + round_number


def requests_of(run: Run, adapter: str) -> Callable[[int, Asked], list[Request]]:
    """What makes requests of a round's prompts: texts as they are, each with a seed of its own."""
    base, iteration = sampling(run), run.self_instruct.iteration
    seed = SEED if base.seed is None else base.seed

    def requests(pool: int, asked: Asked) -> list[Request]:
        stop = (*base.stop, *asked.stops)
        seeds = (seed_of(seed, iteration, number(pool, asked.round), k) for k in range(len(asked.prompts)))
        return [
            Request(prompt=prompt, sampling=dc.replace(base, stop=stop, seed=one), adapter=adapter)
            for prompt, one in zip(asked.prompts, seeds, strict=True)
        ]

    return requests
