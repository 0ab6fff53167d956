"""The loop that makes prompts."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from zlib import crc32

import pytest

from swiftlike.core.errors import UserError
from swiftlike.stages.instructions import Parsing
from swiftlike.stages.self_instruct import Asked, Pool, SelfInstruct, pool_random, self_instruct, shares

from .words import words

POOL = [f"Seed number {i} is about something" for i in range(12)]
SAME = " Explain the water cycle to a child\n10. Explain the water cycle to a child"


Answers = Callable[[list[str], list[str]], Sequence[str]]  # prompts of all pools and stop strings to answers


def made(options: SelfInstruct, answer: Callable[[str], str], pools: dict[int, Sequence[str]] | None = None) -> list:
    def generate(prompts: list[str], stop: list[str]) -> list[str]:
        return [answer(prompt) for prompt in prompts]

    return run(options, generate, pools)


def run(options: SelfInstruct, generate: Answers, pools: dict[int, Sequence[str]] | None = None) -> list:
    def together(asked: Mapping[int, Asked]) -> dict[int, list[str]]:
        sizes = {number: len(one.prompts) for number, one in asked.items()}
        stops = next(iter(asked.values())).stops
        answers = iter(generate([prompt for one in asked.values() for prompt in one.prompts], stops))
        return {number: [next(answers) for _ in range(size)] for number, size in sizes.items()}

    pools = pools or {0: POOL}
    return self_instruct({number: growing(seeds, options, number, pools) for number, seeds in pools.items()}, together)


def growing(seeds: Sequence[str], options: SelfInstruct, number: int, pools: dict[int, Sequence[str]]) -> Pool:
    known = options.known([seed for one in pools.values() for seed in one])
    return Pool(seeds, options, random=pool_random(1, 0, number), count=words, seeds_of_all=known)


def numbered() -> Callable[[str], str]:
    count = iter(range(1000))
    return lambda _: f" Tell me about thing {next(count)}\n10. Tell me about thing {next(count)}"


def test_each_cluster_gets_what_is_wanted() -> None:
    pools = {3: POOL[:6], 1: POOL[6:]}
    rows = made(SelfInstruct(target=5, mini_group_size=2), numbered(), pools)
    assert [row["metadata"]["cluster_id"] for row in rows] == [3] * 5 + [1] * 5
    assert len({row["prompt"] for row in rows}) == 10
    assert rows[0]["messages"] == [{"role": "user", "content": rows[0]["prompt"]}]


def test_prompts_of_a_cluster_show_its_seeds() -> None:
    pools = {0: POOL[:6], 1: POOL[6:]}
    seen: list[str] = []
    made(SelfInstruct(target=1, mini_group_size=3), lambda prompt: seen.append(prompt) or "", pools)
    for prompt, pool in zip(seen, [pools[0]] * 3 + [pools[1]] * 3, strict=False):
        lines = prompt.splitlines()[2:-1]
        assert {line.split(". ", 1)[1] for line in lines} == set(pool)


@pytest.mark.parametrize(("dedup", "wanted"), [(True, 1), (False, 4)])
def test_duplicates_are_dropped_by_default(dedup: bool, wanted: int) -> None:
    assert len(made(SelfInstruct(target=4, dedup=dedup), lambda _: SAME)) == wanted


def test_a_copy_of_a_seed_is_not_new() -> None:
    assert made(SelfInstruct(target=1), lambda _: POOL[0]) == []


def test_it_ends_when_the_model_has_nothing_to_say() -> None:
    calls = []
    made(SelfInstruct(target=6, mini_group_size=4), lambda prompt: calls.append(prompt) or "")
    assert len(calls) == 4 * 3  # ceil(2 * 6 / 4) rounds


def test_a_cluster_that_is_done_is_left_alone() -> None:
    sizes = []

    def generate(prompts: list[str], stop: list[str]) -> list[str]:
        sizes.append(len(prompts))
        return [f"Tell me about thing {len(sizes)}", *[""] * (len(prompts) - 1)]

    run(SelfInstruct(target=1), generate, {0: POOL, 1: POOL})
    assert sizes == [2, 1]


def test_a_pool_grows_the_same_alone_and_beside_others() -> None:
    """Draws, stops and what is new are its own; only the seeds of all are held against its prompts."""
    pools = {0: POOL[:4], 1: POOL[4:], 2: POOL}
    options = SelfInstruct(target=5, n_machine_instructions=2, mini_group_size=2)

    def grown(numbers: Sequence[int]) -> dict[int, list[str]]:
        def generate(asked: Mapping[int, Asked]) -> dict[int, list[str]]:
            return {
                number: [f"{crc32(one.encode())} is a thing to tell of" for one in asked[number].prompts]
                for number in asked
            }

        mine = {number: growing(pools[number], options, number, pools) for number in numbers}
        self_instruct(mine, generate)
        return {number: pool.new for number, pool in mine.items()}

    together = grown([0, 1, 2])
    assert together == grown([2]) | grown([0]) | grown([1])
    assert all(len(new) == 5 for new in together.values())


@pytest.mark.parametrize(("parser", "pool", "last"), [("v1", 12, 10), ("v2", 12, 11), ("v1", 3, 10), ("v2", 3, 6)])
def test_stop_strings_follow_what_is_shown(parser: str, pool: int, last: int) -> None:
    stops = []
    options = SelfInstruct(target=1, parsing=Parsing(parser=parser))
    run(options, lambda prompts, stop: stops.append(stop) or [""] * len(prompts), {0: POOL[:pool]})
    assert stops[0][2] == f"{last}."


def test_what_comes_after_the_stop_is_not_read() -> None:
    rows = made(
        SelfInstruct(target=9), lambda _: " First of the tasks\n10. Second of the tasks\n11. Third of the tasks"
    )
    assert [row["prompt"] for row in rows] == ["First of the tasks", "Second of the tasks"]


def test_new_prompts_are_shown_before_seeds() -> None:
    seen: list[str] = []
    answer = numbered()
    made(SelfInstruct(target=3, n_machine_instructions=2), lambda prompt: seen.append(prompt) or answer(prompt))
    assert "Tell me" not in seen[0]
    lines = seen[1].splitlines()[2:-1]
    assert ["Tell me" in line for line in lines] == [True, True, *[False] * 6]


def test_draws_repeat_for_a_pool_and_differ_between_pools() -> None:
    first = [pool_random(42, 0, pool).random() for pool in (0, 1, 0)]
    assert first[0] == first[2] != first[1]
    assert pool_random(42, 1, 0).random() != first[0]


@pytest.mark.parametrize(("total", "count", "expected"), [(20, 3, [7, 7, 6]), (2, 4, [1, 1, 0, 0]), (8, 1, [8])])
def test_a_total_is_divided_without_remainder(total: int, count: int, expected: list[int]) -> None:
    assert shares(total, count) == expected


@pytest.mark.skipif(importlib.util.find_spec("rouge_score") is not None, reason="rouge-score is installed")
def test_rouge_needs_its_package() -> None:
    with pytest.raises(
        UserError, match=r"--dedup_rouge 0.7 needs the package rouge-score\n  pip install 'swiftlike\[self_instruct\]'"
    ):
        made(SelfInstruct(target=1, dedup_rouge=0.7), numbered())


@pytest.mark.skipif(importlib.util.find_spec("rouge_score") is None, reason="rouge-score is not installed")
def test_similar_ones_are_dropped() -> None:
    options = SelfInstruct(target=3, dedup_rouge=0.7)
    assert [row["prompt"] for row in made(options, numbered())] == ["Tell me about thing 0"]
