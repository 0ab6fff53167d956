"""EXO against DPO where the optimal policy is known in closed form.

python benchmarks/science/exo_frontier.py [--seeds 0 1 2] [--out benchmarks/results] [--quick]

Answers of three letters are counted one by one (enumerated.py), so that the optimum `reference exp(r / beta) / Z`, the
reverse KL to it, the KL to the reference and the expected reward are exact. Policies are trained by swiftlike's `exo`
objective on fresh answers of the reference in groups of K: exo-rw and dpo-rw on the rewards, exo-pref and dpo-pref on
sampled preferences. K = infinity is the divergence itself, reverse for EXO and forward for DPO, over all answers.
"""

from __future__ import annotations

import dataclasses as dc
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from common import arguments, mean_and_error, save, table
from enumerated import World, kl, make_world
from exo_runs import END, FULL, QUICK, Data, Run, Settings, run_grid, run_splits
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = ("reverse KL to the optimum", "KL to the reference", "expected reward")
COLOURS = {"exo": "Blues", "dpo": "Oranges"}
LISTED = ("betas", "sizes")  # settings that the text spells out
REMARKS = """
* **Shown**: with few units exo-rw ends closer to the optimum than dpo-rw at every K, and closer the larger K is; DPO
  levels off. It does not arrive there, as four units cannot be the optimum. With ample units both nearly arrive, DPO no
  less than EXO.
* **Shown in part**: with few units EXO's frontier lies above DPO's for large groups and far from the reference (K = 16
  and ∞, 1 nat and more; K = 8 by little). At K = 2 and 4 it does not: DPO is level or slightly higher.
* **Not shown**: along training at one beta, from 1 nat on, DPO's curve of rewards lies above EXO's at every finite K.
  At equal KL an early EXO policy stands against a late DPO policy there: EXO goes further in as many steps. Only the
  exact divergences (K = ∞) have the order that the paper promises.
* **Not shown**: with ample units the frontiers from rewards are the same to within 0.03, and DPO's is the higher one
  where they differ far from the reference. Reverse KL helps where the policy cannot be the optimum, not elsewhere.
* **Not shown**: from preferences. exo-pref ends further from the optimum than DPO, and its frontier is lower; along
  training at one beta, few units, it is higher. Its target, unlike DPO's, is not the optimum: it is bounded, so answers
  that differ by more than 2 deviations are held for less different.
* How beta is divided matters as much as the objective at K = 2: with beta_pi = beta DPO gets as close as EXO. At K = 16
  EXO is closer under all three divisions, least clearly at beta_pi = beta.
* Also looked at, less carefully, while the script was written: a LLaMA of one layer instead of this network (one seed,
  50 % new reward), 16 hidden units, 70 % new reward for each answer, 500 to 1500 steps, exo-pref with beta_pi = beta.
  In all of them exo-rw ended closer to the optimum than dpo-rw from the same groups at beta_pi of 0.5 and 1. Frontiers
  at equal KL were looked at for 4 units with 70 % new reward: level at K = 4 up to 1.5 nats, EXO's higher at K = 16.
"""
SEEDS_OF_REMARKS = (0, 1, 2)
Values = list[float] | None  # one of each seed; None where a seed never got there


def at_level(points: Tensor, level: float) -> float | None:
    """Reward where the line through `points` [N, 2] of (KL to the reference, reward) first reaches `level`."""
    for (low, below), (high, above) in itertools.pairwise(points.tolist()):
        if low <= level <= high and high > low:
            return below + (above - below) * (level - low) / (high - low)
    return None


def at_levels(lines: Tensor, levels: Sequence[float]) -> list[Values]:
    """Each level's rewards of the seeds. `lines` is [S, N, 2]."""
    found = [[at_level(line, level) for line in lines] for level in levels]
    return [None if None in values else values for values in found]


def minus(one: Values, other: Values) -> Values:
    """Differences within seeds."""
    return None if one is None or other is None else [a - b for a, b in zip(one, other, strict=True)]


def cell(values: Values) -> str:
    """Mean and error, or a dash."""
    return "-" if values is None else str(mean_and_error(values))


def word(values: Values) -> str:
    """EXO minus DPO: which is higher, by more than two standard errors."""
    if values is None:
        return "not reached by both"
    mean, error = mean_and_error(values)
    higher = "EXO" if mean > 0 else "DPO"
    return f"{higher} higher by {abs(mean):.3f}" if abs(mean) > 2 * error else "no difference"


class Report:
    """Tables and pictures of the runs of one grid."""

    def __init__(self, settings: Settings, worlds: dict[int, World], grid: list[Run]) -> None:
        self.settings, self.worlds, self.grid = settings, worlds, grid

    def paths(self, width: int, name: str, data: Data) -> dict[float, Tensor]:
        """By beta, largest first: [T, 3, S]."""
        found = {
            run.method.beta: run.path
            for run in self.grid
            if run.width == width and (run.method.kind, run.method.size) == (f"{name}-{data.kind}", data.size)
        }
        return dict(sorted(found.items(), reverse=True))

    def ends(self, width: int, name: str, data: Data) -> Tensor:
        """[S, N, 2] of (KL to the reference, reward): the reference, then where the run of each beta ended."""
        reference = self.worlds[width].reference
        start = torch.stack([torch.zeros(len(reference)), self.worlds[width].reward(reference)])
        points = [start, *(path[-1, :2] for path in self.paths(width, name, data).values())]
        return torch.stack(points).permute(2, 0, 1)

    def along(self, width: int, name: str, data: Data) -> Tensor:
        """[S, T, 2] of (KL to the reference, reward) along training at one beta."""
        return self.paths(width, name, data)[self.settings.path_beta][:, :2].permute(2, 0, 1)

    def equal_kl(self, width: int, lines: Callable[[int, str, Data], Tensor]) -> tuple[str, str]:
        """Rewards at equal KL to the reference: a table, and the differences in words."""
        levels, rows, words = self.settings.levels, [], []
        for data in self.settings.data(width):
            exo, dpo = (at_levels(lines(width, name, data), levels) for name in ("exo", "dpo"))
            apart = [minus(one, other) for one, other in zip(exo, dpo, strict=True)]
            rows += [[f"EXO, {data}", *map(cell, exo)], [f"DPO, {data}", *map(cell, dpo)]]
            rows.append(["*EXO minus DPO*", *map(cell, apart)])
            said = [f"{word(values)} at {level}" for values, level in zip(apart, levels, strict=True)]
            words.append(f"  * {data}: {', '.join(said)}")
        return table(rows, ["", *(f"reward at KL {level}" for level in levels)]), "\n".join(words)

    def by_size(self, width: int) -> tuple[str, str]:
        """Where the runs of one beta end: a table, and the reverse KL in words."""
        beta, rows, words = self.settings.beta, [], []
        for data in self.settings.data(width):
            exo, dpo = (self.paths(width, name, data)[beta][-1, END] for name in ("exo", "dpo"))
            rows.append([f"EXO, {data}", *map(cell, exo.tolist())])
            rows.append([f"DPO, {data}", *map(cell, dpo.tolist())])
            rows.append(["*EXO minus DPO*", *map(cell, (exo - dpo).tolist())])
            words.append(f"  * {data}: EXO {cell(exo[0].tolist())}, DPO {cell(dpo[0].tolist())}")
        world = self.worlds[width]
        best = world.optimum(beta)
        ideal = [kl(best, best), kl(best, world.reference), world.reward(best)]
        rows.append(["the optimum itself", *(cell(values.tolist()) for values in ideal)])
        return table(rows, ["", *COLUMNS]), "\n".join(words)


def by_split(runs: Sequence[Run]) -> str:
    """The same beta, divided differently."""
    rows = [
        [run.method, f"{run.method.beta_pi:g}", f"{run.method.beta_r:g}", *map(cell, run.path[-1, END].tolist())]
        for run in runs
    ]
    return table(rows, ["", "beta_pi", "beta_r", *COLUMNS])


# -- pictures ---------------------------------------------------------------------------------------------------------


def colour(name: str, data: Data, report: Report) -> Any:
    """Darker with K; preferences are purple and red."""
    import matplotlib as mpl

    if data.kind == "pref":
        return {"exo": "tab:purple", "dpo": "tab:red"}[name]
    sizes = [one.size for one in report.settings.data(report.settings.widths[0]) if one.kind == "rw"]
    return mpl.colormaps[COLOURS[name]](0.35 + 0.6 * sizes.index(data.size) / max(len(sizes) - 1, 1))


def draw_lines(axes: Axes, report: Report, width: int, lines: Callable[[int, str, Data], Tensor]) -> None:
    """Reward against KL to the reference, means over seeds with error bars both ways, and the optima of all beta."""
    rewarded = [data for data in report.settings.data(width) if data.kind == "rw"]
    shown = dict.fromkeys([rewarded[0], *rewarded[-2:], report.settings.data(width)[-1]])  # the tables have all
    for name, data in itertools.product(("exo", "dpo"), shown):
        points = lines(width, name, data)
        found = [[mean_and_error(values) for values in side.T.tolist()] for side in points.unbind(-1)]
        (x, wide), (y, high) = (zip(*side, strict=True) for side in found)
        style = {"marker": "o" if name == "exo" else "s", "ms": 3.5, "lw": 1.3, "elinewidth": 0.8}
        style |= {"ls": ":" if data.kind == "pref" else "-", "color": colour(name, data, report)}
        often = {"errorevery": max(1, len(x) // 8), "markevery": max(1, len(x) // 8)}
        axes.errorbar(x, y, xerr=wide, yerr=high, label=f"{name.upper()}, {data}", **often, **style)
    right = axes.get_xlim()[1]
    world = report.worlds[width]
    optima = [world.optimum(beta) for beta in torch.logspace(1.5, -1.5, 60).tolist()]
    best = [(kl(one, world.reference).mean().item(), world.reward(one).mean().item()) for one in optima]
    axes.plot(*zip(*best, strict=True), color="black", lw=1, ls="--", label="optimal policies of all beta")
    axes.set(xlim=(0, right), xlabel="KL to the reference (nats)", ylabel="expected reward (standard deviations)")
    axes.grid(alpha=0.3)


def draw_sizes(axes: Axes, report: Report) -> None:
    """Reverse KL to the optimum against K."""
    width, beta = report.settings.widths[0], report.settings.beta
    rewarded = [data for data in report.settings.data(width) if data.kind == "rw"]
    for name, marker in (("exo", "o"), ("dpo", "s")):
        found = [report.paths(width, name, data)[beta][-1, 2].tolist() for data in rewarded]
        mean, error = zip(*map(mean_and_error, found), strict=True)
        style = {"color": colour(name, rewarded[-1], report), "capsize": 3}
        axes.errorbar(range(len(found)), mean, yerr=error, marker=marker, label=name.upper(), **style)
    axes.set_xticks(range(len(rewarded)), [str(data.size or "∞") for data in rewarded])
    axes.set(xlabel="answers in a group, K", ylabel="reverse KL to the optimum (nats)", ylim=(0, None))
    axes.set_title(f"Few units, beta {beta:g}: distance to the optimum at the end")
    axes.grid(alpha=0.3)
    axes.legend(title="rewards")


def figure(report: Report) -> Figure:
    """Frontier and distance to the optimum with few units; the curves along training; the frontier with ample units."""
    from matplotlib.figure import Figure

    few, ample = report.settings.widths
    drawn = Figure(figsize=(14, 11), layout="constrained")
    (ends, sizes), (along, control) = drawn.subplots(2, 2)
    draw_lines(ends, report, few, report.ends)
    betas = report.settings.betas
    ends.set_title(f"Few units ({few}): where runs of beta {betas[0]:g} to {betas[-1]:g} end")
    draw_sizes(sizes, report)
    draw_lines(along, report, few, report.along)
    along.set_title(f"Few units ({few}): along training, beta {report.settings.path_beta:g}")
    draw_lines(control, report, ample, report.ends)
    control.set_title(f"Ample units ({ample}): where the runs end")
    for axes in (ends, along, control):
        axes.legend(fontsize=7, ncols=2, loc="lower right")
    return drawn


# -- words ------------------------------------------------------------------------------------------------------------

TEXT = """
# EXO against DPO, the optimum known in closed form

Made by `python benchmarks/science/exo_frontier.py --seeds {seeds}`. Numbers are means ± standard errors over the
seeds; a seed draws the prompts, the rewards and the reference. All quantities are sums over all answers.

## Setting

* {prompts} prompts of 2 letters, answers of 3 letters, 6 letters: 216 answers to each prompt. Rewards have mean 0 and
  deviation 1 over the answers to a prompt; {rough:.0%} of their variance is new for each answer, the rest is a sum over
  pairs of letters.
* Policy: letters so far, one hidden layer of {few} units (few) or {ample} (ample), next letter. The reference is fitted
  to `exp(reward)`. The optimum is `reference exp(reward / beta) / Z`.
* Training: `exo` of swiftlike, {answers} fresh answers of the reference per prompt and step for every K, {steps} steps
  of Adam, learning rate {rate:g} falling to 0. Rewards: exo-rw against dpo-rw, beta_pi = beta_r = sqrt(beta) as in
  EXO's scripts. K = ∞ is the divergence itself, reverse (EXO) or forward (DPO), at beta_pi = 1. Preferences: winners
  drawn with probability sigmoid(difference of rewards); dpo-pref with beta_pi = beta, which is DPO; exo-pref with
  beta_pi = 5 beta: its target is a log-ratio of `10 (2 P(win) - 1) / beta_pi`, which is `difference of rewards / beta`
  for answers nearly as good.
* The grid, all of it below: beta {betas}; K {sizes} with few units, {ample_sizes} with ample ones. The picture leaves
  some K out.
* beta = beta_pi x beta_r: where `softmax(beta_pi log(policy / reference))` equals `softmax(reward / beta_r)`, the
  policy is the optimum of that product.

![Curves](exo_frontier.png)

## Reward at equal KL to the reference, few units: ends of runs

Between the ends of runs of neighbouring beta the frontier is taken as a straight line. Reward and distance to the
optimum are two sides of one thing: `E r - beta KL(policy || reference) = beta log Z - beta KL(policy || optimum)`, so
at equal KL to the reference more reward is a smaller reverse KL to the optimum.

{ends}

## Where runs of beta {beta:g} end, few units

{by_size}

## Reward at equal KL to the reference, few units: along training at beta {path_beta:g}

{along}

## Reward at equal KL to the reference, ample units: ends of runs

{control}

## Where runs of beta {beta:g} end, ample units

{control_sizes}

## Other ways to divide beta {beta:g}, few units

{splits}

## What showed and what did not

{remarks}

Read off the tables; "higher" is by more than two standard errors, which with three seeds is weak evidence:

* Reverse KL to the optimum as K grows, few units, beta {beta:g}:
{size_words}
* The same, ample units:
{control_size_words}
* Expected reward at equal KL to the reference, few units, ends of runs:
{ends_words}
* Along training at beta {path_beta:g}, few units:
{along_words}
* Ends of runs, ample units:
{control_words}
"""


def markdown(report: Report, splits: Sequence[Run], seeds: Sequence[int]) -> str:
    """Settings, tables, and what showed."""
    settings = report.settings
    few, ample = settings.widths
    (ends, ends_words), (control, control_words) = (report.equal_kl(width, report.ends) for width in (few, ample))
    along, along_words = report.equal_kl(few, report.along)
    (by_size, size_words), (control_sizes, control_size_words) = map(report.by_size, (few, ample))
    return TEXT.format(
        **{field.name: getattr(settings, field.name) for field in dc.fields(settings) if field.name not in LISTED},
        seeds=" ".join(map(str, seeds)),
        betas=", ".join(f"{beta:g}" for beta in settings.betas),
        sizes=", ".join(map(str, [*settings.sizes[few], "∞"])),
        ample_sizes=", ".join(map(str, [*settings.sizes[ample], "∞"])),
        few=few,
        ample=ample,
        ends=ends,
        ends_words=ends_words,
        control=control,
        control_words=control_words,
        along=along,
        along_words=along_words,
        by_size=by_size,
        size_words=size_words,
        control_sizes=control_sizes,
        control_size_words=control_size_words,
        splits=by_split(splits),
        remarks=REMARKS.strip() if settings == FULL and tuple(seeds) == SEEDS_OF_REMARKS else "",
    )


def results(report: Report, splits: Sequence[Run], seeds: Sequence[int]) -> dict[str, Any]:
    """Every run's end for each seed, and the curves that the picture shows."""

    def facts(run: Run) -> dict[str, Any]:
        end = zip(COLUMNS, run.path[-1, END].tolist(), strict=True)
        found = {**run.method._asdict(), "width": run.width, **{name: rounded(values) for name, values in end}}
        if run.width == report.settings.widths[0] and run.method.beta == report.settings.path_beta:
            found["path"] = {"KL to the reference": rounded(run.path[:, 0]), "expected reward": rounded(run.path[:, 1])}
        return found

    return {
        "seeds": list(seeds),
        "settings": dc.asdict(report.settings),
        "runs": [facts(run) for run in report.grid],
        "splits": [facts(run) for run in splits],
    }


def rounded(values: Any) -> list[Any]:
    """Five decimals are more than the errors allow."""
    return torch.as_tensor(values, dtype=torch.double).mul(1e5).round().div(1e5).tolist()


def main(words: Sequence[str] | None = None) -> None:
    """Train everything, write the results."""
    options = arguments(__doc__, words)
    torch.set_num_threads(1)
    settings = QUICK if options.quick else FULL
    worlds = {
        width: make_world(
            options.seeds, prompts=settings.prompts, width=width, rough=settings.rough, steps=settings.fit
        )
        for width in settings.widths
    }
    report, splits = Report(settings, worlds, run_grid(settings, worlds)), run_splits(settings, worlds)
    text = markdown(report, splits, options.seeds)
    save(options.out, "exo_frontier", results(report, splits, options.seeds), text, figure(report))
    print(text)


if __name__ == "__main__":
    main()
