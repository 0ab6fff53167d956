"""How often a reward model agrees with what people say, and whether it knows."""

from __future__ import annotations

import dataclasses as dc
import functools

from swiftlike.core.errors import UserError
from swiftlike.core.log import get_logger
from swiftlike.core.merge import Run
from swiftlike.losses import LOSSES
from swiftlike.losses.apo_rm import ApoRmArgs
from swiftlike.losses.calibration import as_bins
from swiftlike.pipelines.evaluate.results import Values, folder_of, model_facts, publish
from swiftlike.pipelines.evaluate.rows import Measure, evaluate, read
from swiftlike.pipelines.serving import open_model, open_scorer

log = get_logger(__name__)
_NAMES = {  # of training's metrics -> of the results
    "accuracy": "accuracy",
    "rewards/margins": "mean_margin",
    "avg_score": "average_score",
    "rewards/chosen": "rewards/chosen",
    "rewards/rejected": "rewards/rejected",
    "loss": "ranking_loss",
}


def run(run: Run) -> int:
    """Accuracy, margin and score over all pairs of answers with different scores; calibration over both orders."""
    from swiftlike.trainers.reliability import draw_reliability

    opened = open_model(run)
    if not opened.reward:
        raise UserError(
            f"{opened.model_folder} is not a reward model",
            hint="train one with `swiftlike rlhf --rlhf_type rm`; a policy has --eval_type preference",
        )
    run = opened.run
    card = LOSSES.get("apo_rm")  # a pair is a list of two scored answers
    args = ApoRmArgs(task_type="rm", calibration_bins=run.eval.calibration_bins)
    scorer = open_scorer(run, opened)
    encode = dc.replace(
        scorer.encode,
        refuse=functools.partial(card.refuse, args=args),
        scaled=functools.partial(card.scaled, args=args),
        truncation=run.data.truncation_strategy or "delete",
    )
    rows = read(run, opened, card.data, encode)
    what = Measure(card=card, args=args, model=scorer.model, collate=scorer.collate)
    found = evaluate(run, opened.checkpoint, rows.groups, what)
    bins = as_bins(found.sums)
    values: Values = {**model_facts(opened), **rows.facts(), "pairs": _pairs(bins)}
    values |= {ours: found.means[name] for name, ours in _NAMES.items() if name in found.means}
    values |= {name: value for name, value in found.means.items() if name.startswith("calibration_")}
    folder = folder_of(run) / "images"
    for n, one in bins.items():
        log.info("reliability diagram: %s", draw_reliability(folder / f"reliability_bin{n}.png", one))
    publish(run, values)
    return 0 if values["pairs"] else 1


def _pairs(bins: dict[int, list[tuple[float, float, float]]]) -> int:
    """Pairs that were compared: calibration counts each in both orders."""
    return next((round(sum(count for _, _, count in one) / 2) for one in bins.values()), 0)
