"""APO's game: does a reward model that is trained against the current policy's samples judge them better?

Annotators compare ordinary answers once, with noise. Each round samples the current policy, trains a reward model from
the base one on the annotated pairs and on golden answers set against the samples, scores new samples with it, and
fine-tunes the policy on the best of each prompt. Measured on fresh samples of the current policy: how often the reward
model agrees with the true preference of two answers, and its calibration error. Claim of the paper (Cheng et al. 2023,
2311.08045): without fresh annotation, the adversarial part keeps the reward model good where the policy goes.

    python benchmarks/science/apo_game.py --seeds 0 1 2 --out benchmarks/results
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from common import arguments, save, table
from rounds import (
    END,
    OWN,
    Ids,
    Training,
    asked,
    fitted,
    item,
    objective,
    ordinary,
    prompts,
    reward_model,
    sample,
    scores,
    train_policy,
    train_reward,
    twin,
    words_of,
)
from rounds_report import TEST, Arms, Metrics, at, estimate, lines, minus, rounded, verdict
from transformers import LlamaForCausalLM

from swiftlike.data.collate import Item
from swiftlike.losses import LOSSES
from swiftlike.losses.calibration import calibration_error


class Setting(NamedTuple):
    """Everything equal in all arms."""

    rounds: int = 5
    annotated: int = 1024  # pairs of ordinary answers
    temperature: float = 0.1  # annotators prefer a to b with probability sigmoid((true(a) - true(b)) / temperature)
    queries: int = 192  # a round, each with a golden answer
    samples: int = 4  # to each query, set against the golden answer
    candidates: int = 8  # to each query, of which the best is learnt
    evaluated: int = 256  # fresh queries, 4 samples each: 6 pairs a query
    limit: int = 24
    length: float = 6.0  # of an ordinary answer
    start: Training = Training(3e-3, 64, 3)
    fitted: int = 2048  # ordinary answers that the first policy is trained on
    base: Training = Training(1e-3, 32, 2)  # the base reward model
    again: Training = Training(3e-4, 32, 1)  # each round's reward model, from the base one
    policy: Training = Training(3e-4, 32, 2)


FULL = Setting()
QUICK = FULL._replace(
    rounds=1,
    annotated=32,
    queries=4,
    evaluated=16,
    candidates=3,
    limit=10,
    length=4.0,
    fitted=64,
    start=Training(3e-3, 32, 1),
)
BINS = 10
FIXED, ZERO, APO, STRONG = "base RM, never retrained", "retrained, coefficient 0", "APO 0.1", "APO 1.0"
ARMS: dict[str, float | None] = {FIXED: None, ZERO: 0.0, APO: 0.1, STRONG: 1.0}  # apo_loss_coeff


def golden(prompt: Ids, chance: random.Random) -> Ids:
    """Each word of the topic once, in any order."""
    return [*chance.sample(asked(prompt), OWN), END]


def true_reward(prompt: Ids, answer: Ids) -> float:
    """F1 of the topic's words: 2 d / (words + 4), d the different ones among them. Golden answers have 1; a word said
    twice is as useless as one of another topic."""
    words = words_of(answer)
    return 2 * len(set(words) & set(asked(prompt))) / (len(words) + OWN)


def preferred(better: float, other: float, temperature: float) -> float:
    """How likely an annotator prefers the first of two true rewards."""
    return 1 / (1 + math.exp((other - better) / temperature))


def annotate(setting: Setting, chance: random.Random) -> list[Item]:
    """Pairs of ordinary answers and what annotators said of them."""
    found = []
    for prompt in prompts(setting.annotated, chance):
        a, b = (ordinary(prompt, setting.length, setting.limit, chance) for _ in range(2))
        if chance.random() > preferred(true_reward(prompt, a), true_reward(prompt, b), setting.temperature):
            a, b = b, a
        found.append(item(prompt, [a, b], (1.0, 0.0)))
    return found


def against(given: Sequence[Ids], answers: Sequence[Sequence[Ids]], turn: int, chance: random.Random) -> list[Item]:
    """Golden answers, each against every sample of its query."""
    return [
        item(prompt, [golden(prompt, chance), one], (1.0, 0.0), "apo", f"{turn} {number}")
        for number, (prompt, some) in enumerate(zip(given, answers, strict=True))
        for one in some
    ]


def measure(
    given: Sequence[Ids],
    answers: Sequence[Sequence[Ids]],
    said: Sequence[Sequence[float]],
    temperature: float,
    seed: int,
) -> Metrics:
    """Of all pairs of a prompt's answers whose true rewards differ: share that the reward model orders right, and ECE
    in both orders, against annotators' votes (what its probabilities were trained to say) and against the truth."""
    chance = random.Random(seed)
    right, votes, truth, believed = [], [], [], []
    for prompt, some, values in zip(given, answers, said, strict=True):
        true = [true_reward(prompt, one) for one in some]
        for i, j in itertools.combinations(range(len(some)), 2):
            if true[i] != true[j]:
                vote = float(chance.random() < preferred(true[i], true[j], temperature))
                first = float(true[i] > true[j])
                probability = 1 / (1 + math.exp(values[j] - values[i]))
                right.append((values[i] - values[j]) * (first - 0.5) > 0)
                votes += [vote, 1 - vote]
                truth += [first, 1 - first]
                believed += [probability, 1 - probability]
    return {
        "accuracy": statistics.fmean(right) if right else 0.0,
        "ece": calibration_error(votes, believed, BINS, "uniform")["ECE"],
        "ece_truth": calibration_error(truth, believed, BINS, "uniform")["ECE"],
        "pairs": float(len(right)),
    }


class World:
    """What all arms of a seed share: first policy, annotated pairs, base reward model, queries to measure on."""

    def __init__(self, setting: Setting, seed: int) -> None:
        self.setting, self.seed = setting, seed
        chance = random.Random(2000 + seed)
        self.policy = fitted(setting.fitted, setting.length, setting.limit, setting.start, seed)
        self.annotated = annotate(setting, chance)
        self.base = reward_model(self.policy, seed)
        train_reward(self.base, self.annotated, objective("apo_rm"), setting.base, chance)
        self.queries = prompts(setting.evaluated, chance)

    def evaluate(self, policy: LlamaForCausalLM, judge: LlamaForCausalLM, turn: int) -> Metrics:
        """The policy's fresh samples and what the round's and the base reward model make of them."""
        number = 10_000 + 100 * self.seed + turn
        chance = torch.Generator().manual_seed(number)
        answers = sample(policy, self.queries, 4, self.setting.limit, chance)
        own, base = (
            measure(self.queries, answers, scores(model, self.queries, answers), self.setting.temperature, number)
            for model in (judge, self.base)
        )
        every = [(prompt, one) for prompt, some in zip(self.queries, answers, strict=True) for one in some]
        return own | {
            "base_accuracy": base["accuracy"],
            "base_ece": base["ece"],
            "base_ece_truth": base["ece_truth"],
            "true": statistics.fmean(true_reward(*one) for one in every),
            "length": statistics.fmean(len(words_of(one)) for _, one in every),
        }

    def retrained(self, policy: LlamaForCausalLM, factor: float, turn: int, chance: random.Random) -> LlamaForCausalLM:
        """A reward model of this round, from the base one. Factor 0 sees the same batches and learns nothing from the
        adversarial items in them."""
        setting = self.setting
        given = prompts(setting.queries, chance)
        sampling = torch.Generator().manual_seed(20_000 + 100 * self.seed + turn)
        game = against(given, sample(policy, given, setting.samples, setting.limit, sampling), turn, chance)
        card = LOSSES.get("apo_rm")
        flags = {"apo_loss_coeff": factor}
        flags |= card.derive([one.group for one in game], card.args(**flags))  # apo_sample_num, counted in the data
        judge = reward_model(self.base, self.seed)
        train_reward(judge, [*self.annotated, *game], objective("apo_rm", **flags), setting.again, chance)
        return judge

    def improve(self, policy: LlamaForCausalLM, judge: LlamaForCausalLM, turn: int, chance: random.Random) -> None:
        """Fine-tune the policy on the best of several samples of each query."""
        setting = self.setting
        given = prompts(setting.queries, chance)
        sampling = torch.Generator().manual_seed(30_000 + 100 * self.seed + turn)
        answers = sample(policy, given, setting.candidates, setting.limit, sampling)
        best = [max(range(len(row)), key=row.__getitem__) for row in scores(judge, given, answers)]
        rows = [item(prompt, [some[i]]) for prompt, some, i in zip(given, answers, best, strict=True)]
        train_policy(policy, rows, objective("sft"), setting.policy, chance)

    def play(self, factor: float | None) -> list[Metrics]:
        """All rounds; entry r is about the samples of the policy after r updates and the reward model made for them."""
        policy, chance = twin(self.policy), random.Random(3000 + self.seed)
        found = []
        for turn in range(self.setting.rounds + 1):
            judge = self.base if factor is None else self.retrained(policy, factor, turn, chance)
            found.append(self.evaluate(policy, judge, turn))
            if turn < self.setting.rounds:
                self.improve(policy, judge, turn, chance)
        return found


# -- the report -----------------------------------------------------------------------------------------------------

COLUMNS = {
    "accuracy": "accuracy",
    "base_accuracy": "base RM's accuracy, same samples",
    "ece": "ECE",
    "base_ece": "base RM's ECE, same samples",
    "ece_truth": "ECE against the truth",
    "true": "true reward",
    "length": "words",
}

COMMITTED = [0, 1, 2]  # the seeds of the run that SUMMARY is about
SUMMARY = """\
**Shown.** A reward model that is never retrained goes blind on the policy it trains: its accuracy on that policy's
samples falls from 0.82 to 0.48. The policy learns to repeat words of the topic (seed 0: 0.8 repeats in an answer at
first, 13 in the end) and gets better until round 3 (true reward 0.33 to 0.47), then worse (0.41). Training against
samples helps: with coefficient 1.0 accuracy ends at 0.61, on the same samples 0.09 above the base model, and true
reward is highest in round 5 (0.52). With the default 0.1 accuracy on the same samples is 0.03 above the base model's in
the last round (0.01 on average).

**Not shown.** Nothing shows in calibration: no comparison of ECE differs, it stays between 0.03 and 0.07 in all arms. A
reward model that no longer knows says so here, with probabilities near one half (base model, seed 0: 0.26 away from it
on average at first, 0.06 in the end); it loses accuracy, not calibration. Nor is accuracy kept up: it falls in every
arm. And at the default 0.1 the game differs neither in accuracy nor in true reward from the control, which sees the
same batches with coefficient 0; its policy is over-optimised likewise."""
READING = """\
To be kept in mind:

- Later policies give closer pairs, which are harder for any judge; that is part of every fall since round 0.
  Comparisons on the same samples are free of it, comparisons of arms on their own policies are not.
- At coefficient 0.1 the adversarial part is a fiftieth of the loss here: 768 items of weight 0.1 / 4 against 1024 of
  weight 1. How much of it there is depends on how many golden answers one has.
- The task suits the claim: golden answers never repeat a word, and ordinary ones do so too seldom for the base model to
  learn well that repeats are worth nothing, which is what policies exploit. Where golden answers share the exploited
  trait the adversarial part has nothing to teach.
- Settings were chosen on seed 0 alone, with all arms looked at: prompts of three words (the base model learnt too
  little there: accuracy 0.66; true rewards came in a similar order), numbers of topics, temperatures of annotators from
  0.05 to 0.15, rates of the reward model. Coefficients other than 0, 0.1 and 1.0 were not run.
- Not tried: apo_loss_type diff, samples kept over rounds, several answers of different quality as golden, real text."""


def over(runs: Sequence[Sequence[Metrics]], name: str) -> list[float]:
    """A metric averaged over the rounds after the first policy, of each seed."""
    return [statistics.fmean(turn[name] for turn in run[1:]) for run in runs]


def findings(arms: Arms) -> str:
    """What the numbers say about the claim: differences within seeds, in the last round and averaged over rounds."""
    rows: list[list[str]] = []

    def compare(what: str, one: tuple[str, str], other: tuple[str, str], *, first: bool = False) -> None:
        cells = []
        for of in (at, over):
            base = at(arms[other[0]], other[1], 0) if first else of(arms[other[0]], other[1])
            cells.append(verdict(minus(of(arms[one[0]], one[1]), base), "higher", "lower"))
        rows.append([COLUMNS[one[1]], what, *cells])

    for name in ("accuracy", "ece", "true"):
        for arm in arms:
            compare(f"{arm}, minus its round 0", (arm, name), (arm, name), first=True)
        for arm in (ZERO, APO, STRONG) if name != "true" else ():
            compare(f"{arm}, minus the base RM on the same samples", (arm, name), (arm, f"base_{name}"))
        for arm in (APO, STRONG):
            compare(f"{arm}, minus coefficient 0, each on its own policy", (arm, name), (ZERO, name))
    return table(rows, ["of", "difference", "last round", "mean of the rounds after round 0"])


def report(arms: Arms, setting: Setting, seeds: list[int]) -> str:
    """The markdown."""
    rows = [
        [arm, turn, *(estimate(runs, name, turn) for name in COLUMNS)]
        for arm, runs in arms.items()
        for turn in range(len(runs[0]))
    ]
    settings = [[name, value] for name, value in setting._asdict().items()]
    return f"""# APO's game: the reward model on the current policy's samples

Written by `benchmarks/science/apo_game.py`, seeds {seeds}. Mean ± standard error over seeds. Round r is about fresh
samples of the policy after r updates and the reward model made for that policy. The pictures: `apo_game.png`.

## What showed and what did not

{SUMMARY if seeds == COMMITTED and setting == FULL else ""}

{TEST}

{findings(arms)}

{READING}

## Each round

{table(rows, ["arm", "round", *COLUMNS.values()])}

## Settings

Pairs without a difference in true reward are left out. ECE has {BINS} bins of equal width, and sees both orders of
each pair.

{table(settings, ["setting", "value"])}
"""


def picture(arms: Arms) -> Any:
    """Accuracy, calibration, gain over the base reward model and true reward over rounds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    gains: Arms = {
        arm: [[{"gain": turn["accuracy"] - turn["base_accuracy"]} for turn in run] for run in runs]
        for arm, runs in arms.items()
    }
    figure, axes = pyplot.subplots(2, 2, figsize=(11, 8))
    lines(axes[0, 0], arms, "accuracy", "accuracy on the current policy's samples")
    lines(axes[0, 1], arms, "ece", "ECE on the current policy's samples (annotators' votes)")
    lines(axes[1, 0], gains, "gain", "accuracy minus the base RM's on the same samples")
    lines(axes[1, 1], arms, "true", "true reward of the policy")
    for axis in axes.flat:
        axis.set_xlabel("round")
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()
    return figure


def main(words: list[str] | None = None) -> int:
    """Play all arms, write the results."""
    options = arguments(__doc__, words)
    torch.set_num_threads(1)
    setting = QUICK if options.quick else FULL
    worlds = [World(setting, seed) for seed in options.seeds]
    arms: Arms = {}
    for name, factor in ARMS.items():
        arms[name] = [world.play(factor) for world in worlds]
        print(name, *(f"{label} {estimate(arms[name], key)}" for key, label in COLUMNS.items()), sep="; ", flush=True)
    results = {
        "seeds": options.seeds,
        "setting": setting._asdict(),
        "apo_loss_coeff": ARMS,
        "arms": rounded(arms),
    }
    save(options.out, "apo_game", results, report(arms, setting, options.seeds), picture(arms))
    return 0


if __name__ == "__main__":
    sys.exit(main())
