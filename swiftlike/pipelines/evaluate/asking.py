"""Asking a judge: many questions at the same time, a failure stops no other."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from swiftlike.core.files import atomic
from swiftlike.core.log import get_logger
from swiftlike.core.merge import Run
from swiftlike.datasets_registry.card import BadRow
from swiftlike.pipelines.judges.endpoint import Endpoint
from swiftlike.stages.conversation import Chat, system_turn, user_turn

log = get_logger(__name__)
Result = TypeVar("Result")
Ask = Callable[[Chat], str]


class Judge:
    """A model behind an OpenAI-style endpoint. `name` stands in rows and file names."""

    def __init__(self, run: Run) -> None:
        self.name = run.judge.judge_model.replace("/", "_")
        self._system = run.judge.judge_system
        self._workers = run.judge.judge_concurrency
        self._endpoint = Endpoint(run.judge)
        self.errors: Counter[str] = Counter()

    def chat(self, text: str, system: str = "") -> Chat:
        """A question. --judge_system stands in place of the benchmark's own system message."""
        system = system if self._system is None else self._system
        return [*([system_turn(system)] if system else []), user_turn(text)]

    def ask(self, chat: Chat) -> str:
        """The reply. BadRow when there is none."""
        found: list[tuple[str, str]] = []
        self._endpoint.ask([[dict(one) for one in chat]], lambda _, reply, error: found.append((reply, error)))
        reply, error = found[0]
        if error:
            raise BadRow("no verdict", error)
        return reply

    def each(self, tasks: Sequence[Callable[[], Result]]) -> list[Result]:
        """What the tasks give, in order, without those that failed: these are counted in `errors` and said."""
        with ThreadPoolExecutor(self._workers) as pool:
            futures = [pool.submit(self._tried, task) for task in tasks]
            try:
                found = [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        for reason, count in self.errors.most_common(3):
            log.warning("%d without a verdict: %s", count, reason)
        return [one for result in found for one in result]

    def close(self) -> None:
        """Let go of the endpoint."""
        self._endpoint.close()

    def _tried(self, task: Callable[[], Result]) -> list[Result]:
        try:
            return [task()]
        except BadRow as error:
            self.errors[str(error)] += 1
            return []


@contextlib.contextmanager
def judge_of(run: Run) -> Iterator[Judge]:
    """The judge of `--judge_model`."""
    judge = Judge(run)
    try:
        yield judge
    finally:
        judge.close()


def write_report(folder: Path, name: str, text: str) -> Path:
    """A report where `--eval_type summary` looks for it."""
    path = folder / "evaluation" / name
    with atomic(path) as file:
        file.write(text)
    return path
