"""New prompts from a model that is shown old ones, by cluster, until there are enough."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any

from swiftlike.core.optional import require
from swiftlike.stages.conversation import Count, user_turn
from swiftlike.stages.instructions import Parsing, cut_at, parse, prompt_text, stop_strings

Generate = Callable[[list[str], list[str]], Sequence[str]]  # prompts and stop strings to one answer each


@dc.dataclass(frozen=True, kw_only=True)
class SelfInstruct:
    """One shard's work. `target`: prompts to be made for each cluster."""

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


def shard_target(n_instructions_to_generate_total: int, num_shards: int) -> int:
    """What one shard makes of the total; a remainder is left out."""
    return n_instructions_to_generate_total // num_shards


def shard_random(seed: int, iteration: int, shard_id: int) -> Random:
    """Draws that differ between iterations and shards, and are the same when a run is repeated."""
    return Random(f"{seed}/{iteration}/{shard_id}")


def self_instruct(
    pools: Mapping[int, Sequence[str]], options: SelfInstruct, *, generate: Generate, random: Random, count: Count
) -> list[dict[str, Any]]:
    """Rows `prompt`, `messages`, `metadata.cluster_id`, in the order of `pools` (cluster to its seed prompts).

    There may be fewer than `target` for a cluster when the model does not come up with more in `rounds` rounds.
    """
    new: dict[int, list[str]] = {cluster: [] for cluster in pools}
    novelty = _novelty(pools, options)
    for _ in range(options.rounds):
        short = [cluster for cluster in pools if len(new[cluster]) < options.target]
        if not short:
            break
        clusters = [cluster for cluster in short for _ in range(options.mini_group_size)]
        shown = [_shown(pools[cluster], new[cluster], options, random) for cluster in clusters]
        stops = _stops(shown, options)
        answers = generate([prompt_text(instructions) for instructions in shown], stops)
        for cluster, answer in zip(clusters, answers, strict=True):
            text = answer if options.parsing.parser == "v1" else cut_at(answer, stops)
            for instruction in parse(text, options.parsing, count):
                if len(new[cluster]) < options.target and novelty.admits(instruction):
                    new[cluster].append(instruction)
    return [_row(instruction, cluster) for cluster, instructions in new.items() for instruction in instructions]


def _shown(seeds: Sequence[str], new: Sequence[str], options: SelfInstruct, random: Random) -> list[str]:
    shown = random.sample(new, k=min(options.n_machine_instructions, len(new)))
    return shown + random.sample(seeds, k=min(options.n_prompt_instructions - len(shown), len(seeds)))


def _stops(shown: Sequence[Sequence[str]], options: SelfInstruct) -> list[str]:
    """v1 counts as if every prompt showed as many as asked for, which small pools cannot."""
    parser = options.parsing.parser
    length = options.n_prompt_instructions if parser == "v1" else max(len(one) for one in shown)
    return stop_strings(length, options.max_n_generate_instructions, parser)


def _row(instruction: str, cluster: int) -> dict[str, Any]:
    return {"prompt": instruction, "messages": [user_turn(instruction)], "metadata": {"cluster_id": cluster}}


class _Novelty:
    """What there is already, and whether a text is too near to it."""

    def __init__(self, known: Iterable[str], exact: bool, similar: Callable[[str, str], bool] | None) -> None:
        self.known = dict.fromkeys(known)  # a set that keeps its order
        self.exact, self.similar = exact, similar

    def admits(self, text: str) -> bool:
        """Whether the text is new; if so, it is known from now on."""
        if self.exact and text in self.known:
            return False
        if self.similar is not None and any(self.similar(other, text) for other in self.known):
            return False
        self.known[text] = None
        return True


def _novelty(pools: Mapping[int, Sequence[str]], options: SelfInstruct) -> _Novelty:
    similar = None if options.dedup_rouge is None else _rouge_l(options.dedup_rouge)
    seeds = (seed for pool in pools.values() for seed in pool)
    return _Novelty(seeds, options.dedup, similar)


def _rouge_l(threshold: float) -> Callable[[str, str], bool]:
    """Whether two texts' ROUGE-L F-measure is above the threshold (Lin 2004; 0.7 in Wang et al. 2023)."""
    module = require("rouge_score.rouge_scorer", because=f"--dedup_rouge {threshold}", package="rouge-score")
    scorer = module.RougeScorer(["rougeL"], use_stemmer=False)
    return lambda one, other: scorer.score(one, other)["rougeL"].fmeasure > threshold
