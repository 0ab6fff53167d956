"""How the next token is chosen."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from transformers import GenerationConfig

from swiftlike.engines.base import Sampling
from swiftlike.engines.choosing import Choice, Wish, choose, generator, penalised, probabilities, settle

CPU = torch.device("cpu")
LOGITS = torch.tensor([2.0, 1.0, 0.5, -1.0])


def draws(choice: Choice, count: int = 200, seed: int = 0) -> Counter[int]:
    wish = Wish(choice, generator(seed, 0, CPU), (), ())
    return Counter(choose(LOGITS[None], [wish])[0] for _ in range(count))


def test_what_a_request_leaves_open_is_the_models_own() -> None:
    own = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9, top_k=20, repetition_penalty=1.1)
    assert settle(Sampling(), own) == Choice(temperature=0.6, top_p=0.9, top_k=20, repetition_penalty=1.1)
    assert settle(Sampling(temperature=0.0), own) == Choice(repetition_penalty=1.1)
    assert settle(Sampling(temperature=1e-9), own) == Choice(repetition_penalty=1.1)
    asked = Sampling(temperature=1.5, top_p=0.5, top_k=-1, repetition_penalty=1.0)
    assert settle(asked, own) == Choice(temperature=1.5, top_p=0.5)
    assert settle(Sampling(), GenerationConfig()) == Choice()
    assert settle(Sampling(top_p=0.5), GenerationConfig(temperature=0.7)) == Choice()


def test_greedy_takes_the_likeliest() -> None:
    wishes = [Wish(Choice(), None, (), ())] * 2
    assert choose(torch.stack([LOGITS, -LOGITS]), wishes) == [0, 3]


@pytest.mark.parametrize(
    ("choice", "possible"),
    [
        (Choice(temperature=3.0), {0, 1, 2, 3}),
        (Choice(temperature=1.0, top_k=2), {0, 1}),
        (Choice(temperature=1.0, top_p=0.5), {0}),
        (Choice(temperature=5.0, min_p=0.9), {0}),
        (Choice(temperature=1.0, top_p=0.0), {0}),
    ],
)
def test_what_may_be_drawn(choice: Choice, possible: set[int]) -> None:
    assert set(draws(choice)) == possible


def test_frequencies_are_the_probabilities() -> None:
    counts, expected = draws(Choice(temperature=0.7), 2000), torch.softmax(LOGITS / 0.7, -1)
    for token, share in enumerate(expected.tolist()):
        assert counts[token] / 2000 == pytest.approx(share, abs=4 * math.sqrt(share / 2000))
    assert probabilities(LOGITS[None], Choice(temperature=0.7))[0] == pytest.approx(expected)


def test_a_seed_gives_the_same_tokens_beside_any_others() -> None:
    def run(*others: int) -> list[int]:
        mine = Wish(Choice(temperature=1.0), generator(7, 0, CPU), (), ())
        rows = [Wish(Choice(temperature=1.0), generator(seed, 0, CPU), (), ()) for seed in others]
        return [choose(LOGITS.repeat(1 + len(rows), 1), [*rows, mine])[-1] for _ in range(30)]

    assert run() == run(1) == run(3, 9, 11)
    assert run() != draws(Choice(temperature=1.0), 30, seed=8)
    assert generator(7, 0, CPU).initial_seed() != generator(7, 1, CPU).initial_seed() != generator(8, 0, CPU)
    assert generator(None, 0, CPU).initial_seed() != generator(None, 0, CPU).initial_seed()


def test_penalties() -> None:
    repeated = penalised(LOGITS, Choice(repetition_penalty=2.0), [0], [3])
    assert repeated.tolist() == [1.0, 1.0, 0.5, -2.0]
    counted = penalised(LOGITS, Choice(presence_penalty=0.5, frequency_penalty=0.25), [0], [1, 1, 3])
    assert counted.tolist() == [2.0, 0.0, 0.5, -1.75]
    wish = Wish(Choice(repetition_penalty=4.0), None, [0], ())
    assert choose(LOGITS[None], [wish]) == [1]
    assert LOGITS.tolist() == [2.0, 1.0, 0.5, -1.0]
