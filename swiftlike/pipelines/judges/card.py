"""What a scorer is asked and what it answers."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from swiftlike.core.merge import Run
from swiftlike.datasets_registry.row import Row, Turns

Scores = list[float | None]  # one per answer, higher is better; None: no verdict on this one
Done = Callable[[int, Scores | str], None]  # the scores of group i, or the text that says why there are none


@dc.dataclass(frozen=True, slots=True)
class Group:
    """The answers to one prompt, and the record that they come from."""

    row: Row
    record: Mapping[str, Any]

    @property
    def answers(self) -> list[str]:
        """Texts of the answers."""
        return [turns.messages[-1].content for turns in self.row.completions]

    @property
    def prompt(self) -> str:
        """The conversation before the answer as one text: a single query as it is, else turns under their roles."""
        turns = [message for message in self.row.prompt.messages if message.role != "system"]
        if len(turns) == 1 and len(self.row.prompt.messages) == 1:
            return turns[0].content
        return "\n\n".join(f"{message.role}: {message.content}" for message in self.row.prompt.messages)

    def conversation(self, k: int) -> Turns:
        """Prompt and answer k."""
        prompt, answer = self.row.prompt_of(k), self.row.completions[k]
        return Turns(prompt.messages + answer.messages, prompt.images + answer.images)


class GroupScorer(Protocol):
    """A scorer that is open."""

    def score(self, groups: Sequence[Group], done: Done) -> None:
        """Call `done` once for each group, in any order, from any thread. One bad group stops no other."""
        ...

    def close(self) -> None:
        """Let go of models and connections."""
        ...


@dc.dataclass(frozen=True, kw_only=True)
class ScorerCard:
    """One way to judge. `ranks`: it compares answers, so that its scores mean something inside a group only;
    `both_orders`: it looks at every two of them in both orders."""

    name: str
    help: str
    open: Callable[[Run], GroupScorer]
    ranks: bool = False
    both_orders: bool = False
