"""The training runs of exo_frontier.py: EXO and DPO from the same draws of a reference whose answers can be counted."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from enumerated import ANSWER, World, kl
from torch import Tensor

from swiftlike.losses import LOSSES
from swiftlike.losses.base import GroupLogps
from swiftlike.losses.exo import FLOOR

EXACT = 0  # the K of "all answers"
KINDS = ("exo-rw", "dpo-rw", "exo-pref", "dpo-pref")
END = [2, 0, 1]  # reverse KL to the optimum, KL to the reference, reward


class Data(NamedTuple):
    """What two objectives have in common: rewards ("rw") or preferences ("pref"), in groups of `size`."""

    kind: str
    size: int

    def __str__(self) -> str:
        return f"{'rewards' if self.kind == 'rw' else 'preferences'}, K = {self.size or '∞'}"


class Method(NamedTuple):
    """An objective and its temperatures. The optimum is that of `beta`."""

    kind: str
    size: int
    beta: float
    beta_pi: float

    @property
    def beta_r(self) -> float:
        """Rewards: what makes the optimum that of beta. Preferences are those of people with 1."""
        return self.beta / self.beta_pi if self.kind.endswith("rw") else 1.0

    def __str__(self) -> str:
        return f"{self.kind}, K = {self.size or '∞'}"


def usual(kind: str, size: int, beta: float) -> Method:
    """beta_pi = beta_r as in EXO's scripts, and 1 for the divergences themselves.

    exo-pref's target is a log-ratio of `|log e| (2 P(win) - 1) / beta_pi`, not the reward's, so beta_pi is chosen to
    make both agree where two answers are nearly as good. dpo-pref with beta_pi = beta is DPO.
    """
    if kind.endswith("pref"):
        return Method(kind, size, beta, beta * (-math.log(FLOOR) / 2 if kind == "exo-pref" else 1))
    return Method(kind, size, beta, 1.0 if size == EXACT else beta**0.5)


@dc.dataclass(frozen=True)
class Settings:
    """The grid. `answers` are drawn per prompt and step, whatever K is; `levels` are nats from the reference."""

    sizes: dict[int, tuple[int, ...]]  # of groups of rewards, by the policy's hidden units
    betas: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125, 0.0625)
    beta: float = 0.25  # of the tables by K
    path_beta: float = 0.125  # of the curves along training
    levels: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    steps: int = 600
    every: int = 15
    prompts: int = 12
    answers: int = 16
    rate: float = 1e-2
    rough: float = 0.3
    fit: int = 400  # steps of the reference

    @property
    def widths(self) -> tuple[int, int]:
        """Few hidden units, and ample."""
        few, ample = self.sizes
        return few, ample

    def data(self, width: int) -> list[Data]:
        """What is trained on."""
        return [*(Data("rw", size) for size in (*self.sizes[width], EXACT)), Data("pref", 2)]


FULL = Settings({4: (2, 4, 8, 16), 24: (4, 16)})
QUICK = Settings(
    {3: (2, 4), 6: (2,)},
    betas=(0.5, 0.25),
    path_beta=0.5,
    levels=(0.02, 0.1),
    steps=20,
    every=4,
    prompts=4,
    answers=4,
    fit=30,
)


class Run(NamedTuple):
    """`path` [T, 3, S] along training: KL to the reference, expected reward, reverse KL to the optimum."""

    method: Method
    width: int
    path: Tensor


def sampled_loss(world: World, method: Method) -> Callable[..., Tensor]:
    """The `exo` objective of `answers` [S, P, n] drawn from the reference: the sum over seeds of each one's mean."""
    card, rewarded = LOSSES.get("exo"), method.kind.endswith("rw")
    args = card.args(
        loss_type=[method.kind],
        num_contrastive=method.size,
        beta_pi=method.beta_pi,
        beta_r=method.beta_r,
    )

    def loss(policy: Tensor, answers: Tensor, generator: torch.Generator) -> Tensor:
        def groups(values: Tensor) -> Tensor:
            return values.gather(-1, answers).reshape(-1, method.size)

        scores = groups(world.rewards)
        if not rewarded:
            likely = torch.sigmoid((scores[:, 0] - scores[:, 1]) / method.beta_r)
            wins = torch.rand(len(scores), generator=generator) < likely
            scores = torch.stack([wins, ~wins], dim=1).float()
        record = GroupLogps(
            policy=groups(policy),
            reference=groups(world.reference),
            tokens=torch.full(scores.shape, float(ANSWER)),
            scores=scores,
            present=torch.ones_like(scores, dtype=torch.bool),
        )
        return card.fn(record, args).value * len(policy)  # all seeds have as many groups

    return loss


def exact_loss(world: World, method: Method) -> Callable[..., Tensor]:
    """What exo-rw and dpo-rw become as K grows, at beta_pi 1: KL(policy || optimum) and KL(optimum || policy)."""
    optimum = world.optimum(method.beta)
    if method.kind == "exo-rw":
        return lambda policy, answers, generator: kl(policy, optimum).sum()
    return lambda policy, answers, generator: kl(optimum, policy).sum()


def train(world: World, settings: Settings, method: Method) -> Tensor:
    """[T, 3, S] along training. All methods see the same draws of answers."""
    objective = (exact_loss if method.size == EXACT else sampled_loss)(world, method)
    policies, optimum, path = world.start(), world.optimum(method.beta), []
    optimizer = torch.optim.Adam(policies.parameters(), lr=settings.rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / settings.steps)
    draws, labels = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    probabilities = world.reference.exp().flatten(0, 1)
    for step in range(settings.steps + 1):
        policy = policies()
        if step % settings.every == 0 or step == settings.steps:
            now = policy.detach()
            path.append(torch.stack([kl(now, world.reference), world.reward(now), kl(now, optimum)]))
        answers = torch.multinomial(probabilities, settings.answers, replacement=True, generator=draws)
        loss = objective(policy, answers.view(*policy.shape[:2], -1), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return torch.stack(path)


def run_grid(settings: Settings, worlds: dict[int, World]) -> list[Run]:
    """Every method at every beta."""
    methods = [
        (width, usual(f"{name}-{data.kind}", data.size, beta))
        for width in settings.widths
        for data in settings.data(width)
        for name in ("exo", "dpo")
        for beta in settings.betas
    ]
    return [Run(method, width, train(worlds[width], settings, method)) for width, method in methods]


def run_splits(settings: Settings, worlds: dict[int, World]) -> list[Run]:
    """One beta divided differently into beta_pi and beta_r, few units, smallest and largest groups."""
    width, beta = settings.widths[0], settings.beta
    methods = [
        Method(kind, size, beta, beta_pi)
        for size in (settings.sizes[width][0], settings.sizes[width][-1])
        for kind in KINDS[:2]
        for beta_pi in (1.0, beta**0.5, beta)
    ]
    return [Run(method, width, train(worlds[width], settings, method)) for method in methods]
