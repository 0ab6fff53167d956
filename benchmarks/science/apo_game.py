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
from rounds_report import TEST, Arms, Metrics, at, estimate, finding, lines, minus, rounded
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

READING = ""


def over(runs: Sequence[Sequence[Metrics]], name: str) -> list[float]:
    """A metric averaged over the rounds after the first policy, of each seed."""
    return [statistics.fmean(turn[name] for turn in run[1:]) for run in runs]


def findings(arms: Arms) -> list[str]:
    """What the numbers say about the claim: in the last round, and on average over the rounds after round 0."""
    spans = {"last round": at, "mean of rounds": over}
    trained = (ZERO, APO, STRONG)

    def same(name: str, what: str) -> list[str]:
        return [
            finding(f"{arm} minus the base RM on the same samples, {what}, {when}", apart, "higher", "lower")
            for when, of in spans.items()
            for arm in trained
            for apart in [minus(of(arms[arm], name), of(arms[arm], f"base_{name}"))]
        ]

    def chains(name: str, what: str) -> list[str]:
        return [
            finding(f"{arm} minus coefficient 0, each on its own policy, {what}, {when}", apart, "higher", "lower")
            for when, of in spans.items()
            for arm in (APO, STRONG)
            for apart in [minus(of(arms[arm], name), of(arms[ZERO], name))]
        ]

    def since(arm: str, name: str, what: str) -> str:
        apart = minus(at(arms[arm], name), at(arms[arm], name, 0))
        return finding(f"{arm}, {what}, last round minus round 0", apart, "rises", "falls")

    return [
        *(since(arm, "accuracy", "accuracy") for arm in arms),
        *same("accuracy", "accuracy"),
        *chains("accuracy", "accuracy"),
        *(since(arm, "ece", "ECE") for arm in arms),
        *same("ece", "ECE"),
        *chains("ece", "ECE"),
        *(since(arm, "true", "true reward") for arm in arms),
        *chains("true", "true reward"),
    ]


def report(arms: Arms, setting: Setting, seeds: list[int]) -> str:
    """The markdown."""
    rows = [
        [arm, turn, *(estimate(runs, name, turn) for name in COLUMNS)]
        for arm, runs in arms.items()
        for turn in range(len(runs[0]))
    ]
    settings = [[name, value] for name, value in setting._asdict().items()]
    shown = "\n".join(findings(arms))
    return f"""# APO's game: the reward model on the current policy's samples

Written by `benchmarks/science/apo_game.py`, seeds {seeds}. Mean ± standard error over seeds. Round r is about fresh
samples of the policy after r updates and the reward model made for that policy. The pictures: `apo_game.png`.

## What showed and what did not

{READING}

{TEST}

{shown}

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
