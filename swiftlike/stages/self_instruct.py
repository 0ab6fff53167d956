"""New prompts from a model that is shown old ones, pool by pool, until there are enough."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from swiftlike.stages.conversation import Count, user_turn
from swiftlike.stages.instructions import Parsing, cut_at, parse, prompt_text, stop_strings
from swiftlike.stages.similarity import Known


@dc.dataclass(frozen=True, kw_only=True)
class SelfInstruct:
    """How a pool of prompts grows. `target`: prompts to be made for it."""

    target: int
    n_prompt_instructions: int = 8
    n_machine_instructions: int = 0  # of those, how many are new ones, once there are any
    max_n_generate_instructions: int = 2
    mini_group_size: int = 1
    parsing: Parsing = dc.field(default_factory=Parsing)
    dedup: bool = True  # leave out what is among the seeds or the new prompts word for word
    dedup_rouge: float | None = None  # leave out what is this similar to one of them, by ROUGE-L

    @property
    def rounds(self) -> int:
        """Most rounds of generating: twice what is needed when every answer holds one instruction."""
        return math.ceil(2 * self.target / self.mini_group_size)

    def known(self, texts: Sequence[str] = ()) -> Known:
        """What new prompts are held against."""
        return Known(texts, exact=self.dedup, rouge=self.dedup_rouge)


@dc.dataclass(frozen=True)
class Asked:
    """One round of a pool: prompts, and what ends an answer to them."""

    round: int
    prompts: list[str]
    stops: list[str]


Generate = Callable[[Mapping[int, Asked]], Mapping[int, Sequence[str]]]  # by pool: one answer to each prompt


class Pool:
    """Seed prompts and the new ones that were made of them.

    Nothing in it depends on other pools: its draws are its own, and what is new is decided by `seeds_of_all` (the seeds
    of every pool, which none may repeat) and by its own prompts.
    """

    def __init__(
        self, seeds: Sequence[str], options: SelfInstruct, *, random: Random, count: Count, seeds_of_all: Known
    ) -> None:
        self.seeds, self.options = seeds, options
        self.new: list[str] = []
        self._random, self._count = random, count
        self._seeds_of_all, self._own = seeds_of_all, options.known()
        self._asked = Asked(-1, [], [])

    @property
    def goes_on(self) -> bool:
        """Whether it is short of prompts and there are rounds left."""
        return len(self.new) < self.options.target and self._asked.round + 1 < self.options.rounds

    def ask(self) -> Asked:
        """The prompts of the next round."""
        shown = [self._shown() for _ in range(self.options.mini_group_size)]
        parser = self.options.parsing.parser
        # v1 counts as if every prompt showed as many as asked for, which small pools cannot
        length = self.options.n_prompt_instructions if parser == "v1" else len(shown[0])
        stops = stop_strings(length, self.options.max_n_generate_instructions, parser)
        self._asked = Asked(self._asked.round + 1, [prompt_text(one) for one in shown], stops)
        return self._asked

    def take(self, answers: Sequence[str]) -> None:
        """Keep what is new in the answers to `ask`, until there is enough."""
        options = self.options
        for answer in answers:
            text = answer if options.parsing.parser == "v1" else cut_at(answer, self._asked.stops)
            for instruction in parse(text, options.parsing, self._count):
                if len(self.new) < options.target and self._is_new(instruction):
                    self.new.append(instruction)
                    self._own.add(instruction)

    def _shown(self) -> list[str]:
        shown = self._random.sample(self.new, k=min(self.options.n_machine_instructions, len(self.new)))
        more = min(self.options.n_prompt_instructions - len(shown), len(self.seeds))
        return shown + self._random.sample(self.seeds, k=more)

    def _is_new(self, text: str) -> bool:
        return text not in self._seeds_of_all and text not in self._own


def shares(total: int, count: int) -> list[int]:
    """A total divided among `count`; the first `total mod count` get one more."""
    each, more = divmod(total, count)
    return [each + (place < more) for place in range(count)]


def pool_random(seed: int, iteration: int, pool: int) -> Random:
    """Draws that differ between iterations and pools, and are the same when a run is repeated."""
    return Random(f"{seed}/{iteration}/{pool}")


def self_instruct(pools: Mapping[int, Pool], generate: Generate) -> list[dict[str, Any]]:
    """Rows `prompt`, `messages`, `metadata.cluster_id`, in the order of `pools`.

    In each round the prompts of all pools that are still short are generated together. A pool may stay short when the
    model does not come up with more in its rounds.
    """
    while short := {number: pool for number, pool in pools.items() if pool.goes_on}:
        answers = generate({number: pool.ask() for number, pool in short.items()})
        for number, pool in short.items():
            pool.take(answers[number])
    return [_row(instruction, number) for number, pool in pools.items() for instruction in pool.new]


def _row(instruction: str, cluster: int) -> dict[str, Any]:
    return {"prompt": instruction, "messages": [user_turn(instruction)], "metadata": {"cluster_id": cluster}}
