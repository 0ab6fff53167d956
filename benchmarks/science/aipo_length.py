"""AIPO against DPO over iterations with a judge that likes length: do answers grow, and do they become better?

Each iteration samples answers to fresh prompts from the current policy, a judge picks the best and the worst of each
prompt, and the policy is trained on these pairs against the model the iteration starts from. The true reward of an
answer is the share of its words that are on topic, whatever its length; the judge adds a bonus for every word and some
noise. Claim of the paper (Shen et al. 2024, 2409.08845): iterative DPO grows long, AIPO much less, and it keeps
improving.

    python benchmarks/science/aipo_length.py --seeds 0 1 2 --out benchmarks/results
"""

from __future__ import annotations

import random
import statistics
import sys
from typing import Any, NamedTuple

import torch
from common import arguments, save, table
from rounds import Ids, Training, asked, fitted, item, objective, prompts, sample, train_policy, twin, words_of
from rounds_report import TEST, Arms, Metrics, at, estimate, finding, lines, minus, rounded
from transformers import LlamaForCausalLM


class Setting(NamedTuple):
    """Everything equal in all arms. Lengths are words without the end token; `limit` is tokens of an answer."""

    iterations: int = 5
    prompts: int = 192  # an iteration
    answers: int = 5  # to each prompt, as the original's recipes have it
    evaluated: int = 512  # fresh prompts, one answer each, after every iteration
    limit: int = 48
    length: float = 8.0  # of an ordinary answer
    bias: float = 0.02  # the judge's bonus for a word
    noise: float = 0.1  # the judge's, standard deviation
    policy: Training = Training(1e-4, 32, 2)
    start: Training = Training(3e-3, 64, 4)
    fitted: int = 1024  # ordinary answers that the first policy is trained on


class Arm(NamedTuple):
    """An objective and its flags; `bias` replaces the setting's."""

    loss: str
    flags: dict[str, Any]
    bias: float | None = None


PURE = {"beta": 0.1, "rpo_alpha": 0.0}
DPO, AIPO, STRONG, FAIR = "DPO", "AIPO 0.05 / 0.2", "AIPO 0.5 / 0.2", "DPO, fair judge"
ALPHA, NLL = "alpha 0.5 only", "NLL 0.2 only"
ARMS = {
    DPO: Arm("dpo", PURE),
    AIPO: Arm("aipo", {}),
    STRONG: Arm("aipo", {"aipo_alpha": 0.5}),
    ALPHA: Arm("aipo", {"loss_type": ["alpha_dpo"], "aipo_alpha": 0.5}),
    NLL: Arm("aipo", {"loss_type": ["nll_loss"], "aipo_alpha": 0.2}),
    FAIR: Arm("dpo", PURE, bias=0.0),
}
COMPARED = (DPO, AIPO, STRONG)
FULL = Setting()
GRID = {  # one seed each: does the picture depend on the setting?
    "rate x 3": FULL._replace(policy=Training(3e-4, 32, 2)),
    "rate x 10": FULL._replace(policy=Training(1e-3, 32, 2)),
    "bias x 2": FULL._replace(bias=0.04),
    "bias x 1/2": FULL._replace(bias=0.01),
}
QUICK = FULL._replace(
    iterations=1, prompts=16, evaluated=32, limit=10, length=4.0, start=Training(3e-3, 32, 1), fitted=64
)


def true_reward(prompt: Ids, answer: Ids) -> float:
    """The share of the words that are on topic; 0 without words."""
    words, own = words_of(answer), asked(prompt)
    return sum(word in own for word in words) / len(words) if words else 0.0


def judged(prompt: Ids, answer: Ids, bias: float) -> float:
    """What the judge thinks of an answer, before its noise."""
    return true_reward(prompt, answer) + bias * len(words_of(answer))


def extremes(scores: list[float]) -> tuple[int, int]:
    """Best and worst; the first among equals."""
    places = range(len(scores))
    return max(places, key=scores.__getitem__), min(places, key=scores.__getitem__)


class Evaluation:
    """Fresh answers of a policy, one to each of the same prompts, and what iteration 0 answered."""

    def __init__(self, setting: Setting, seed: int) -> None:
        self.setting = setting
        self.prompts = prompts(setting.evaluated, random.Random(1000 + seed))
        self.first: list[Ids] = []

    def __call__(self, policy: LlamaForCausalLM, seed: int) -> Metrics:
        """Length in words, true reward, the judge's score, how often the true reward beats iteration 0 (ties half),
        and how many answers have no end token."""
        chance = torch.Generator().manual_seed(seed)
        answers = [one for (one,) in sample(policy, self.prompts, 1, self.setting.limit, chance)]
        self.first = self.first or answers
        bias = self.setting.bias
        return {
            "length": statistics.fmean(len(words_of(one)) for one in answers),
            "true": statistics.fmean(map(true_reward, self.prompts, answers)),
            "judge": statistics.fmean(judged(*both, bias) for both in zip(self.prompts, answers, strict=True)),
            "wins": self.wins(answers, 0.0),
            "judge_wins": self.wins(answers, bias),
            "unfinished": statistics.fmean(len(words_of(one)) == len(one) for one in answers),
        }

    def wins(self, answers: list[Ids], bias: float) -> float:
        """Share of prompts where these answers score above iteration 0's, by a judge without noise."""
        ours, theirs = (
            [judged(*both, bias) for both in zip(self.prompts, some, strict=True)] for some in (answers, self.first)
        )
        return statistics.fmean((a > b) + 0.5 * (a == b) for a, b in zip(ours, theirs, strict=True))


def play(start: LlamaForCausalLM, arm: Arm, setting: Setting, seed: int) -> list[Metrics]:
    """All iterations of an arm; the first entry is the policy that all arms start from."""
    policy, evaluate = twin(start), Evaluation(setting, seed)
    chance, sampling = random.Random(seed), torch.Generator().manual_seed(seed)
    bias = setting.bias if arm.bias is None else arm.bias
    loss = objective(arm.loss, **arm.flags)
    found = [evaluate(policy, 10_000 + 100 * seed)]
    for turn in range(setting.iterations):
        given = prompts(setting.prompts, chance)
        pairs = []
        for prompt, answers in zip(given, sample(policy, given, setting.answers, setting.limit, sampling), strict=True):
            best, worst = extremes([judged(prompt, one, bias) + chance.gauss(0, setting.noise) for one in answers])
            pairs.append(item(prompt, [answers[best], answers[worst]]))
        train_policy(policy, pairs, loss, setting.policy, chance)
        found.append(evaluate(policy, 10_000 + 100 * seed + turn + 1))
    return found


def first_policy(setting: Setting, seed: int) -> LlamaForCausalLM:
    """What iteration 0 samples from."""
    return fitted(setting.fitted, setting.length, setting.limit, setting.start, seed)


# -- the report -----------------------------------------------------------------------------------------------------


def findings(arms: Arms) -> list[str]:
    """What the numbers say about the claim."""
    grown = {arm: minus(at(runs, "length"), at(runs, "length", 0)) for arm, runs in arms.items()}
    gained = {arm: minus(at(runs, "true"), at(runs, "true", 0)) for arm, runs in arms.items()}
    late = {arm: minus(at(runs, "true"), at(runs, "true", -2)) for arm, runs in arms.items()}
    length, true = ("words, last iteration", "true reward, last iteration")

    def against_dpo(arm: str, name: str, where: str) -> str:
        return finding(f"{arm} minus DPO, {where}", minus(at(arms[arm], name), at(arms[DPO], name)), "higher", "lower")

    return [
        finding("DPO, growth in words over all iterations", grown[DPO], "grows", "shrinks"),
        finding("DPO with a judge that does not like length (control), growth", grown[FAIR], "grows", "shrinks"),
        finding("AIPO at our defaults, growth", grown[AIPO], "grows", "shrinks"),
        finding("AIPO with alpha 0.5, growth", grown[STRONG], "grows", "shrinks"),
        *(against_dpo(arm, "length", length) for arm in (AIPO, STRONG, ALPHA, NLL)),
        *(
            finding(f"{arm}, gain in true reward over all iterations", gained[arm], "improves", "gets worse")
            for arm in COMPARED
        ),
        *(against_dpo(arm, "true", true) for arm in (AIPO, STRONG, ALPHA, NLL, FAIR)),
        *(
            finding(f"{arm}, true reward in the last iteration alone", late[arm], "still improves", "gets worse")
            for arm in COMPARED
        ),
        against_dpo(AIPO, "judge", "the judge's own score"),
        against_dpo(STRONG, "judge", "the judge's own score"),
    ]


COLUMNS = {
    "length": "words",
    "true": "true reward",
    "judge": "judge's score",
    "wins": "wins against 0, true",
    "judge_wins": "wins against 0, judge",
    "unfinished": "cut off",
}
COMMITTED = [0, 1, 2]  # the seeds of the run that SUMMARY is about
SUMMARY = """\
**Shown.** With a judge that likes length, DPO grows from 8 to 30 words in five iterations and would go on (38 of 100
answers reach the limit); with a fair judge it grows by 2. AIPO holds growth back: at our defaults (alpha 0.05, lambda
0.2) to 26 words, with alpha 0.5 to 10.5, where DPO with the fair judge ends too. All arms still improve in the last
iteration, and AIPO's true reward ends a little above DPO's (0.84 and 0.86 against 0.81; DPO with the fair judge has
0.87). Both parts matter: alone, alpha 0.5 ends at 19 words and the NLL term at 27, so at our defaults most of the
effect is the NLL term's.

**Not shown.** Our defaults do not stop the growth, they delay it by about one iteration, and with alpha 0.5 it begins
in the last one. Growth does not ruin DPO here: its true reward rises as well, only more slowly. At three and ten times
the learning rate every arm grows long, alpha 0.5 included (38 and 29 words), the defaults save almost nothing, and at
ten times they end with less true reward than DPO. With half the bias the defaults save much (14 words against 28), at
no gain in true reward."""
READING = """\
To be kept in mind:

- In this language a longer answer has a smaller sum of log-probabilities, nearly in proportion. The reference margin,
  enlarged by alpha, is therefore close to a bonus for the shorter answer: alpha acts against length whether or not
  length is bad, and would do so with a judge for whom long answers were truly better.
- What alpha does depends on how long answers are: it adds `beta alpha` times a difference of sums to the argument of
  the loss. So 0.05 is weak for answers of ten words, and has the size of 0.5 here for answers ten times as long.
- Judged by the length-liking judge itself, the arms that grow most look best.
- The limit on tokens hides a part of the growth; see the answers that were cut off.
- Rate, bias and noise were set after looking at one seed of a related language (prompts of three words) at rates 1e-4,
  3e-4 and 1e-3. The picture was the same there; the main rate is the one with the slowest growth. Two arms of that look
  are not here: DPO with rpo_alpha 1 (grew nearly as DPO does) and alpha 1 alone (grew less than alpha 0.5 alone).
- Not tried: real text, a learned judge, temperatures other than 1 (the recipes sample at 0.4), beta other than 0.1."""


def report(arms: Arms, grid: dict[str, Arms], setting: Setting, seeds: list[int]) -> str:
    """The markdown."""
    rows = [
        [arm, turn, *(estimate(runs, name, turn) for name in COLUMNS)]
        for arm, runs in arms.items()
        for turn in range(len(runs[0]))
    ]
    other = [
        [name, arm, *(f"{runs[0][-1][metric]:.3f}" for metric in COLUMNS)]
        for name, some in grid.items()
        for arm, runs in some.items()
    ]
    settings = [[name, value] for name, value in setting._asdict().items()]
    objectives = [[name, arm.loss, arm.flags or "defaults"] for name, arm in ARMS.items()]
    shown = "\n".join(findings(arms))
    return f"""# AIPO against DPO over iterations, with a judge that likes length

Written by `benchmarks/science/aipo_length.py`, seeds {seeds}. Mean ± standard error over seeds; fresh answers of the
policy after each iteration, 0 is the policy all start from. The pictures: `aipo_length.png`.

## What showed and what did not

{SUMMARY if seeds == COMMITTED and setting == FULL else ""}

{TEST}

{shown}

{READING}

## Each iteration

{table(rows, ["arm", "iteration", *COLUMNS.values()])}

## Other settings: the last iteration, seed {seeds[0]} only, no error bars

{table(other, ["setting", "arm", *COLUMNS.values()])}

## Settings

Arms are named by alpha / lambda. The judge scores `true reward + bias x words + noise x normal`; the best answer to a
prompt is set against the worst. The judge's score in the tables is without noise and, in all arms, with the bias of
the setting.

{table(objectives, ["arm", "objective", "flags"])}

{table(settings, ["setting", "value"])}
"""


def picture(arms: Arms) -> Any:
    """Length, true reward and judge's score over iterations, and true reward against length."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(11, 8))
    lines(axes[0, 0], arms, "length", "words of an answer")
    lines(axes[0, 1], arms, "true", "true reward (share of words on topic)")
    lines(axes[1, 0], arms, "judge", "what the judge thinks (without its noise)")
    for axis in (axes[0, 0], axes[0, 1], axes[1, 0]):
        axis.set_xlabel("iteration")
    last = axes[1, 1]
    for runs in arms.values():
        turns = range(len(runs[0]))
        length, true = ([estimate(runs, name, turn).mean for turn in turns] for name in ("length", "true"))
        last.plot(length, true, marker="o", ms=3.5)
    last.set_title("true reward against length, an iteration a dot", fontsize=10)
    last.set_xlabel("words")
    last.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()
    return figure


def main(words: list[str] | None = None) -> int:
    """Play all arms, write the results."""
    options = arguments(__doc__, words)
    torch.set_num_threads(1)
    setting, others = (QUICK, {"bias x 2": QUICK._replace(bias=0.04)}) if options.quick else (FULL, GRID)
    starts = {seed: first_policy(setting, seed) for seed in options.seeds}
    arms: Arms = {}
    for name, arm in ARMS.items():
        arms[name] = [play(starts[seed], arm, setting, seed) for seed in options.seeds]
        print(f"{name}: {estimate(arms[name], 'length')} words, true reward {estimate(arms[name], 'true')}", flush=True)
    seed = options.seeds[0]
    grid = {
        name: {arm: [play(starts[seed], ARMS[arm], other, seed)] for arm in COMPARED} for name, other in others.items()
    }
    results = {
        "seeds": options.seeds,
        "setting": setting._asdict(),
        "objectives": {name: arm._asdict() for name, arm in ARMS.items()},
        "arms": rounded(arms),
        "grid": {name: rounded(some) for name, some in grid.items()},
    }
    save(options.out, "aipo_length", results, report(arms, grid, setting, options.seeds), picture(arms))
    return 0


if __name__ == "__main__":
    sys.exit(main())
