"""Verdicts of a language model that is shown two answers at a time."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Sequence
from typing import Any

from swiftlike.core.merge import Run
from swiftlike.pipelines.judges.card import Done, Group, ScorerCard
from swiftlike.pipelines.judges.endpoint import Chat, Endpoint
from swiftlike.pipelines.judges.judge import compiled, content_of, filled, template_of

PROMPT = """Below are a conversation and two answers to it. Judge which answer is more helpful, correct and clear.
Neither their order nor their length must count. Explain your judgement in one or two sentences, then end with [[A]] if
answer A is better, [[B]] if answer B is better, or [[C]] if they are equally good.

# Conversation
{prompt}

# Answer A
{first}

# Answer B
{second}
"""
_VERDICT = re.compile(r"\[\[([ABC])\]\]")
_WORTH = {"A": 1.0, "B": 0.0, "C": 0.5}


def worth_of(reply: str, pattern: re.Pattern[str] = _VERDICT) -> float | None:
    """What a reply gives the first answer: 1, 0, or 0.5 for a tie; None when it says nothing, or several things."""
    said = {found[1 if pattern.groups else 0] for found in pattern.finditer(reply)}
    return _WORTH.get(said.pop()) if len(said) == 1 else None


class CompareScorer:
    """Every answer against every other, in both orders: models tend to prefer what they see first."""

    def __init__(self, endpoint: Endpoint, args: Any) -> None:
        self.endpoint, self.system = endpoint, args.judge_system
        self.prompt = template_of(args.judge_prompt, PROMPT, ("{first}", "{second}"))
        self.pattern = compiled(args.judge_pattern) or _VERDICT

    def score(self, groups: Sequence[Group], done: Done) -> None:
        """An answer's score is its mean worth. A group is an error when one of its games has no verdict."""
        games: list[tuple[int, int, int]] = []
        chats: list[Chat] = []
        for g, group in enumerate(groups):
            orders = list(itertools.permutations(range(group.row.size), 2))
            try:
                chats += [self._chat(group, i, j) for i, j in orders]
            except OSError as error:
                done(g, f"image is unreadable: {error.filename}: {error.strerror}")
                continue
            games += [(g, i, j) for i, j in orders]
            if not orders:
                done(g, [0.5])
        left = [group.row.size * (group.row.size - 1) for group in groups]
        totals = [[0.0] * group.row.size for group in groups]
        errors = [""] * len(groups)
        lock = threading.Lock()

        def take(place: int, reply: str, error: str) -> None:
            g, i, j = games[place]
            worth = None if error else worth_of(reply, self.pattern)
            with lock:
                if worth is None:
                    errors[g] = error or f"no verdict in the judge's reply: {reply[:80]!r}"
                else:
                    totals[g][i] += worth
                    totals[g][j] += 1 - worth
                left[g] -= 1
                complete = not left[g]
            if complete:
                most = 2 * (groups[g].row.size - 1)
                done(g, errors[g] or [total / most for total in totals[g]])

        self.endpoint.ask(chats, take)

    def _chat(self, group: Group, i: int, j: int) -> Chat:
        said = {"prompt": group.prompt, "first": group.answers[i], "second": group.answers[j]}
        system = [{"role": "system", "content": self.system}] if self.system else []
        content = content_of(filled(self.prompt, group.record, said), group.row.prompt.images)
        return [*system, {"role": "user", "content": content}]

    def close(self) -> None:
        """Let go of the endpoint."""
        self.endpoint.close()


def _open(run: Run) -> CompareScorer:
    return CompareScorer(Endpoint(run.judge), run.judge)


CARD = ScorerCard(
    name="compare",
    help="a model behind an OpenAI-style endpoint that is shown two answers at a time",
    open=_open,
    ranks=True,
    both_orders=True,
)
