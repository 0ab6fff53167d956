"""EXO against DPO where the optimal policy is known in closed form.

python benchmarks/science/exo_frontier.py [--seeds 0 1 2] [--out benchmarks/results] [--quick]

Answers of three letters are counted one by one (enumerated.py), so that the optimum `reference exp(r / beta) / Z`, the
reverse KL to it, the KL to the reference and the expected reward are exact. Policies are trained by swiftlike's own
`exo` objective on K fresh answers of the reference per group: exo-rw and dpo-rw on the rewards, exo-pref and dpo-pref on
sampled preferences. K = infinity is the divergence itself, reverse for EXO and forward for DPO, summed over all answers.
"""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from common import Estimate, arguments, mean_and_error, save, table
from enumerated import World, kl, make_world
from torch import Tensor

from swiftlike.losses import LOSSES
from swiftlike.losses.base import GroupLogps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EXACT = 0  # the K of "all answers"
KINDS = ("exo-rw", "dpo-rw", "exo-pref", "dpo-pref")
COLOURS = {"exo": "tab:blue", "dpo": "tab:orange"}


@dc.dataclass(frozen=True)
class Settings:
    """The grid. `widths` are hidden units: few and ample; `answers` are drawn per prompt and step, whatever K is."""

    widths: tuple[int, int] = (4, 24)
    betas: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125, 0.0625)
    sizes: tuple[int, ...] = (2, 4, 8, 16)
    steps: int = 600
    every: int = 15
    prompts: int = 12
    answers: int = 16
    rate: float = 1e-2
    rough: float = 0.3
    beta: float = 0.25  # of the table of K
    path_beta: float = 0.125  # of the curves along training
    levels: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)  # nats from the reference

    @property
    def methods(self) -> list[tuple[str, int]]:
        """(kind, K), EXO and DPO in turn."""
        rewarded = [(kind, size) for size in (*self.sizes, EXACT) for kind in KINDS[:2]]
        return [*rewarded, *((kind, 2) for kind in KINDS[2:])]


QUICK = Settings(widths=(3, 6), betas=(0.5, 0.25), sizes=(2, 4), steps=24, every=4, prompts=4, answers=4, path_beta=0.5)


@dc.dataclass(frozen=True)
class Run:
    """`path` [T, 3, S] along training: KL to the reference, expected reward, reverse KL to the optimum."""

    kind: str
    size: int
    width: int
    beta: float
    beta_pi: float
    path: Tensor

    @property
    def end(self) -> Tensor:
        """[3, S] after the last step."""
        return self.path[-1]


def betas_of(kind: str, size: int, beta: float) -> tuple[float, float]:
    """(beta_pi, beta_r), whose product is `beta`. Rewards: equal, as in EXO's scripts; preferences are of people with
    beta_r 1; the divergences themselves have beta_pi 1."""
    if kind.endswith("pref"):
        return beta, 1.0
    return (1.0, beta) if size == EXACT else (beta**0.5, beta**0.5)


def sampled_loss(world: World, kind: str, size: int, betas: tuple[float, float]) -> Callable[..., Tensor]:
    """The `exo` objective of `answers` [S, P, n] drawn from the reference: the sum over seeds of each one's mean."""
    card = LOSSES.get("exo")
    rewarded = kind.endswith("rw")
    args = card.args(loss_type=[kind], num_contrastive=size, beta_pi=betas[0], beta_r=betas[1] if rewarded else 1.0)

    def loss(policy: Tensor, answers: Tensor, generator: torch.Generator) -> Tensor:
        def groups(values: Tensor) -> Tensor:
            return values.gather(-1, answers).reshape(-1, size)

        scores = groups(world.rewards)
        if not rewarded:
            wins = torch.rand(len(scores), generator=generator) < torch.sigmoid(
                (scores[:, 0] - scores[:, 1]) / betas[1]
            )
            scores = torch.stack([wins, ~wins], dim=1).float()
        record = GroupLogps(
            policy=groups(policy),
            reference=groups(world.reference),
            tokens=torch.full(scores.shape, 3.0),
            scores=scores,
            present=torch.ones_like(scores, dtype=torch.bool),
        )
        return card.fn(record, args).value * len(policy)  # all seeds have as many groups

    return loss


def exact_loss(world: World, kind: str, beta: float) -> Callable[..., Tensor]:
    """What exo-rw and dpo-rw become as K grows, at beta_pi 1: KL(policy || optimum) and KL(optimum || policy)."""
    optimum = world.optimum(beta)
    if kind == "exo-rw":
        return lambda policy, answers, generator: kl(policy, optimum).sum()
    return lambda policy, answers, generator: kl(optimum, policy).sum()


def train(world: World, settings: Settings, kind: str, size: int, betas: tuple[float, float]) -> Tensor:
    """[T, 3, S] along training. All methods see the same draws of answers."""
    beta = betas[0] * betas[1]
    objective = exact_loss(world, kind, beta) if size == EXACT else sampled_loss(world, kind, size, betas)
    policies, optimum, path = world.start(), world.optimum(beta), []
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


def runs(settings: Settings, seeds: Sequence[int]) -> tuple[list[Run], list[Run], dict[int, World]]:
    """The grid of methods and betas, the other splits of one beta into beta_pi and beta_r, and the worlds by width."""
    worlds = {
        width: make_world(seeds, prompts=settings.prompts, width=width, rough=settings.rough)
        for width in settings.widths
    }

    def run(width: int, kind: str, size: int, betas: tuple[float, float]) -> Run:
        path = train(worlds[width], settings, kind, size, betas)
        return Run(kind, size, width, betas[0] * betas[1], betas[0], path)

    grid = [
        run(width, kind, size, betas_of(kind, size, beta))
        for width in settings.widths
        for kind, size in settings.methods
        for beta in settings.betas
    ]
    beta = settings.beta
    splits = [
        run(settings.widths[0], kind, size, (beta_pi, beta / beta_pi))
        for size in (settings.sizes[0], settings.sizes[-1])
        for kind in KINDS[:2]
        for beta_pi in (1.0, beta**0.5, beta)
    ]
    return grid, splits, worlds


# -- what is read off the runs --------------------------------------------------------------------------------------


def at_level(points: Tensor, level: float) -> float | None:
    """Reward where the line through `points` [N, 2] of (KL to the reference, reward) first reaches `level`."""
    for (low, below), (high, above) in zip(points.tolist(), points[1:].tolist(), strict=False):
        if low <= level <= high and high > low:
            return below + (above - below) * (level - low) / (high - low)
    return None


def frontier(grid: Sequence[Run], world: World) -> Tensor:
    """[S, N, 2]: (KL to the reference, reward) of the reference and of where each beta's run ended, largest first."""
    start = torch.stack([torch.zeros(len(world.reference)), world.reward(world.reference)])
    ends = [run.end[:2] for run in sorted(grid, key=lambda run: -run.beta)]
    return torch.stack([start, *ends]).permute(2, 0, 1)


def levels_of(lines: Tensor, levels: Sequence[float]) -> list[list[float] | None]:
    """For each level the seeds' rewards, or None where a seed never gets there. `lines` is [S, N, 2]."""
    found = [[at_level(line, level) for line in lines] for level in levels]
    return [None if None in values else values for values in found]


def cell(values: Sequence[float] | None) -> Estimate | str:
    """Mean and error, or a dash where a level was not reached."""
    return mean_and_error(values) if values is not None else "-"


def minus(one: Sequence[float] | None, other: Sequence[float] | None) -> list[float] | None:
    """Differences within seeds."""
    return None if one is None or other is None else [a - b for a, b in zip(one, other, strict=True)]


def named(kind: str, size: int) -> str:
    """`exo-rw, K = 4`."""
    return f"{kind}, K = {size or '∞'}"


def verdict(values: Sequence[float] | None) -> str:
    """Differences within seeds, EXO minus DPO, in a word: shown when beyond two standard errors."""
    if values is None:
        return "not reached"
    mean, error = mean_and_error(values)
    if abs(mean) <= 2 * error:
        return "no difference"
    return "EXO higher" if mean > 0 else "DPO higher"


def pairs(settings: Settings) -> Iterator[tuple[tuple[str, int], tuple[str, int]]]:
    """EXO and DPO of the same data and K."""
    methods = settings.methods
    yield from zip(methods[::2], methods[1::2], strict=True)


class Report:
    """Tables and pictures of the runs of one grid."""

    def __init__(self, settings: Settings, grid: list[Run], splits: list[Run], worlds: dict[int, World]) -> None:
        self.settings, self.grid, self.splits, self.worlds = settings, grid, splits, worlds

    def of(self, width: int, method: tuple[str, int], beta: float | None = None) -> list[Run]:
        """Runs of a method, of every beta or of one."""
        wanted = [run for run in self.grid if run.width == width and (run.kind, run.size) == method]
        return [run for run in wanted if beta is None or run.beta == beta or math.isclose(run.beta, beta)]

    def ends(self, width: int, method: tuple[str, int]) -> Tensor:
        """[S, N, 2] of all betas."""
        return frontier(self.of(width, method), self.worlds[width])

    def path(self, width: int, method: tuple[str, int]) -> Tensor:
        """[S, T, 2] along training."""
        (run,) = self.of(width, method, self.settings.path_beta)
        return run.path[:, :2].permute(2, 0, 1)

    def at_equal_kl(self, width: int, lines: Callable[[int, tuple[str, int]], Tensor]) -> tuple[str, list[list[Any]]]:
        """The table of rewards, and the rows of differences: (name, one list for each level)."""
        levels, rows, differences = self.settings.levels, [], []
        for exo, dpo in pairs(self.settings):
            one, other = (levels_of(lines(width, method), levels) for method in (exo, dpo))
            apart = [minus(a, b) for a, b in zip(one, other, strict=True)]
            rows += [[named(*exo), *map(cell, one)], [named(*dpo), *map(cell, other)]]
            rows.append(["*EXO minus DPO*", *(f"*{cell(values)}*" for values in apart)])
            differences.append([named(*exo).removeprefix("exo-"), apart])
        return table(rows, ["", *(f"KL {level}" for level in levels)]), differences

    def by_size(self, width: int) -> str:
        """Where the runs at the middle beta end."""
        rows = []
        for exo, dpo in pairs(self.settings):
            (one,), (other,) = (self.of(width, method, self.settings.beta) for method in (exo, dpo))
            for run in (one, other):
                rows.append(
                    [named(run.kind, run.size), *(mean_and_error(values) for values in run.end[[2, 0, 1]].tolist())]
                )
            rows.append(
                ["*EXO minus DPO*", *(f"*{mean_and_error(v)}*" for v in (one.end - other.end)[[2, 0, 1]].tolist())]
            )
        world = self.worlds[width]
        best = world.optimum(self.settings.beta)
        ideal = [kl(best, best), kl(best, world.reference), world.reward(best)]
        rows.append(["**the optimum itself**", *(mean_and_error(values.tolist()) for values in ideal)])
        return table(rows, ["", "reverse KL to the optimum", "KL to the reference", "expected reward"])

    def by_split(self) -> str:
        """The same beta, divided differently."""
        rows = [
            [
                named(run.kind, run.size),
                run.beta_pi,
                *(mean_and_error(values) for values in run.end[[2, 0, 1]].tolist()),
            ]
            for run in self.splits
        ]
        return table(rows, ["", "beta_pi", "reverse KL to the optimum", "KL to the reference", "expected reward"])
