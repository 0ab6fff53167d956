"""A language so small that every answer can be counted: prompts of two letters, answers of three, six letters.

The policy is a causal network of few units, so that it cannot be everything. Expectations and divergences are sums over
all 216 answers; nothing is estimated by samples. Runs of several seeds are trained side by side: S of everything.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

LETTERS, PROMPT, ANSWER = 6, 2, 3
ANSWERS = LETTERS**ANSWER
BLANK = LETTERS  # a place of the answer that is not written yet


class Policies(nn.Module):
    """One network with a hidden layer for each seed: letters so far to log-probabilities of the next one.

    It is asked for all answers to all of its `prompts` [S, P, 2] at once.
    """

    def __init__(self, seeds: Sequence[int], prompts: Tensor, width: int) -> None:
        super().__init__()
        self.count = prompts.shape[1]
        self.register_buffer("seen", nn.functional.one_hot(_beginnings(prompts), LETTERS + 1).flatten(2).float())
        places, inputs = PROMPT + ANSWER - 1, self.seen.shape[-1]
        drawn = [torch.Generator().manual_seed(seed) for seed in seeds]
        lower = torch.stack([torch.randn(inputs, width, generator=one) for one in drawn])
        upper = torch.stack([torch.randn(width, LETTERS, generator=one) for one in drawn])
        self.lower = nn.Parameter(lower * places**-0.5)
        self.upper = nn.Parameter(upper * width**-0.5)
        self.bias = nn.Parameter(torch.zeros(len(drawn), 1, LETTERS))

    def forward(self) -> Tensor:
        """Log-probabilities [S, P, 216] of all answers, in alphabetical order."""
        logps = ((self.seen @ self.lower).tanh() @ self.upper + self.bias).log_softmax(-1)
        first, second, third = logps.unflatten(1, (self.count, -1)).split([1, LETTERS, LETTERS**2], dim=2)
        # [S, P, first letter, second letter, third letter]
        first = first.reshape(*first.shape[:2], LETTERS, 1, 1)
        second = second.unsqueeze(-1)
        return (first + second + third.unflatten(2, (LETTERS, LETTERS))).flatten(2)


class World(NamedTuple):
    """`prompts` [S, P, 2] are letters, `rewards` [S, P, 216] of every answer (mean 0, deviation 1 over the answers to a
    prompt), `reference` [S, P, 216] log-probabilities of the policy that training starts from."""

    prompts: Tensor
    rewards: Tensor
    reference: Tensor
    policies: Policies

    def start(self) -> Policies:
        """Policies to train: a copy of the references."""
        return copy.deepcopy(self.policies)

    def optimum(self, beta: float) -> Tensor:
        """Log-probabilities [S, P, 216] of `reference exp(rewards / beta) / Z`: the maximum of
        `E rewards - beta KL(policy || reference)`."""
        return torch.log_softmax(self.reference + self.rewards / beta, dim=-1)

    def reward(self, policy: Tensor) -> Tensor:
        """[S]: expected true reward of samples of `policy` [S, P, 216], averaged over prompts."""
        return (policy.exp() * self.rewards).sum(-1).mean(-1)


def kl(one: Tensor, other: Tensor) -> Tensor:
    """[S]: KL(one || other) in nats of log-probabilities [S, P, A], averaged over prompts."""
    return (one.exp() * (one - other)).sum(-1).mean(-1)


def make_world(seeds: Sequence[int], *, prompts: int, width: int, rough: float, steps: int) -> World:
    """Draws prompts and rewards, and fits the references to answers better than a blind writer's: `exp(reward)`.

    A share `rough` of the rewards' variance is drawn anew for every answer, so that no small network can follow it.
    """
    drawn = [_draw(seed, prompts, rough) for seed in seeds]
    chosen, rewards = (torch.stack(part) for part in zip(*drawn, strict=True))
    policies, written = Policies(seeds, chosen, width), torch.softmax(rewards, dim=-1)
    optimizer = torch.optim.Adam(policies.parameters(), lr=2e-2)
    for _ in range(steps):
        loss = -(written * policies()).sum(-1).mean(-1).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return World(chosen, rewards, policies(), policies)


def _beginnings(prompts: Tensor) -> Tensor:
    """[S, P * 43, 4]: each prompt with no letter, every letter, every two letters of an answer."""
    begun = [
        [*written, *[BLANK] * (ANSWER - 1 - size)]
        for size in range(ANSWER)
        for written in itertools.product(range(LETTERS), repeat=size)
    ]
    every = torch.tensor(begun).expand(*prompts.shape[:2], -1, -1)
    return torch.cat([prompts[:, :, None].expand(-1, -1, len(begun), -1), every], dim=-1).flatten(1, 2)


def _draw(seed: int, count: int, rough: float) -> tuple[Tensor, Tensor]:
    """Prompts [P, 2] and rewards [P, 216]: the smooth part is a sum over pairs of letters of prompt and answer."""
    generator = torch.Generator().manual_seed(seed)
    every = torch.tensor(list(itertools.product(range(LETTERS), repeat=PROMPT)))
    prompts = every[torch.randperm(len(every), generator=generator)[:count]]
    answers = torch.tensor(list(itertools.product(range(LETTERS), repeat=ANSWER)))
    texts = torch.cat([prompts[:, None].expand(-1, ANSWERS, -1), answers.expand(count, -1, -1)], dim=-1)
    smooth = torch.zeros(count, ANSWERS)
    for one, other in itertools.combinations(range(PROMPT + ANSWER), 2):
        weights = torch.randn(LETTERS, LETTERS, generator=generator)
        smooth += weights[texts[..., one], texts[..., other]]
    new = torch.randn(smooth.shape, generator=generator)
    return prompts, _standard((1 - rough) ** 0.5 * _standard(smooth) + rough**0.5 * new)


def _standard(values: Tensor) -> Tensor:
    return (values - values.mean(-1, keepdim=True)) / values.std(-1, keepdim=True)
