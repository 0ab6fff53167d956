"""How far a policy is from a reference: the mean log-ratio of answers that the policy wrote itself (EXO)."""

from __future__ import annotations

import dataclasses as dc
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run
from swiftlike.data.check import Problem
from swiftlike.data.packed import Packed
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.kinds import LeftOut
from swiftlike.losses.base import GroupLogps, Loss, LossCard
from swiftlike.pipelines.evaluate.answers import rewards_of
from swiftlike.pipelines.evaluate.policies import measure_of, reference_of
from swiftlike.pipelines.evaluate.results import Values, model_facts, publish
from swiftlike.pipelines.evaluate.rows import Gone, Read, dropping, encoded, evaluate
from swiftlike.pipelines.prepare import encoder, settle
from swiftlike.pipelines.records import read_records
from swiftlike.pipelines.score_rows import group_of
from swiftlike.pipelines.serving import Opened, open_model

if TYPE_CHECKING:
    from torch import Tensor


@dc.dataclass(frozen=True)
class Args:
    """`temperature` divides the logits of policy and reference."""

    temperature: float


def measure(record: GroupLogps, args: Args) -> dict[str, tuple[Tensor, Tensor]]:
    """Sums and counts over answers of the log-ratio, of its square and of the tokens, in 64 bits."""
    assert record.present is not None
    ratios = record.ratios[record.present].double()
    count = record.present.sum()
    tokens = record.tokens[record.present].sum()
    return {"kl": (ratios.sum(), count), "squares": (ratios.square().sum(), count), "tokens": (tokens, count)}


CARD = LossCard(
    name="kl",
    fn=lambda record, args: Loss(record.policy.new_zeros(len(record.policy)), record.policy),
    args=Args,
    data="ranked",
    paper="https://arxiv.org/abs/2402.00856",
    summary="distance from a reference",
    words=lambda args: "distance from a reference",
    needs_reference=lambda args: True,
    temperature=lambda args: args.temperature,
    measure=measure,
)


def run(run: Run) -> int:
    """The estimate `mean of (log policy - log reference)` with its standard error, beside rewards and lengths."""
    opened = open_model(run)
    run = opened.run
    temperature = 1.0 if run.generate.temperature is None else run.generate.temperature
    rows = _read(run, opened)
    reference = reference_of(run, opened, temperature)
    if reference is None:
        raise UserError(f"{opened.model_folder} is compared with what?", hint="give --ref_model")
    what = measure_of(run, opened, CARD, Args(temperature), reference)
    bare = Packed.of(dc.replace(one, scores=()) for one in rows.groups)
    sums = evaluate(run, opened.checkpoint, bare, what).sums
    asked = run.eval.ref_model or "the model without its adapter"
    values: Values = {**model_facts(opened), "reference": asked, "temperature": temperature}
    values |= {**rows.facts(), **counted(sums), **rewarded([score for one in rows.groups for score in one.scores])}
    publish(run, values)
    return 0


def _read(run: Run, opened: Opened) -> Read:
    """Prompts with one answer or several, judged or not."""
    run, rows, bad, left_out = dropping(run), [], [], Counter[str]()
    for read in read_records(run, None):
        try:
            group = group_of(read, run.data.image_root)
            rows.append(dc.replace(group.row, scores=tuple(rewards_of(group)), label=None, margin=None))
        except BadRow as error:
            bad.append(Problem(read.origin, error.kind, error.detail))
        except LeftOut as reason:
            left_out[str(reason)] += 1
    settle(bad, run, "data")
    return encoded(run, opened, encoder(run, opened.checkpoint, every=False), rows, Gone(bad, left_out))


def counted(sums: Mapping[str, tuple[float, float]]) -> Values:
    """The estimate over n answers, its standard error (of independent answers), and their mean length."""
    total, n = sums["kl"]
    mean = total / n
    spread = max(sums["squares"][0] - n * mean * mean, 0.0) / max(n - 1, 1)
    return {
        "answers": round(n),
        "kl": mean,
        "kl_stderr": math.sqrt(spread / n) if n > 1 else None,
        "mean_tokens": sums["tokens"][0] / n,
    }


def rewarded(rewards: Sequence[float]) -> Values:
    """Mean and standard error of the rewards that came with the answers."""
    if not rewards:
        return {}
    stderr = statistics.stdev(rewards) / math.sqrt(len(rewards)) if len(rewards) > 1 else None
    return {"mean_reward": statistics.fmean(rewards), "mean_reward_stderr": stderr}
