"""Whether a policy finds the preferred answers likelier, by the forward pass and the counting of training."""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run
from swiftlike.data.collate import Collator
from swiftlike.losses.base import GroupLogps, Loss, LossCard
from swiftlike.losses.terms import pair_difference, widened
from swiftlike.models.logps import add_scoring
from swiftlike.models.reference import AdapterOff, FrozenCopy, Reference
from swiftlike.pipelines.evaluate.results import Values, model_facts, publish
from swiftlike.pipelines.evaluate.rows import Measure, evaluate, read
from swiftlike.pipelines.infer.batch import adapter_of
from swiftlike.pipelines.prepare import encoder
from swiftlike.pipelines.serving import Opened, open_engine, open_model

if TYPE_CHECKING:
    from torch import Tensor

_REWARDS = ("rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected")
_LOGPS = (
    *("accuracy", "mean_margin", "accuracy_averaged", "mean_margin_averaged"),
    *("logps/chosen", "logps/rejected", "logps_averaged/chosen", "logps_averaged/rejected"),
)


@dc.dataclass(frozen=True)
class Args:
    """`beta` scales implicit rewards (Rafailov et al. 2023 eq. 5); None without a reference."""

    beta: float | None


def compared(record: GroupLogps, args: Args) -> Loss:
    """Nothing to minimise: metrics of summed and of length-averaged log-probabilities, and implicit rewards
    `beta (log p(y) - log p_ref(y))`."""
    record = widened(record)
    metrics: dict[str, Tensor] = {}
    for name, values in (("", record.policy), ("_averaged", record.mean)):
        margin = pair_difference(values)
        metrics |= {f"accuracy{name}": (margin > 0).to(margin.dtype), f"mean_margin{name}": margin}
    metrics |= {f"logps_averaged/{side}": record.mean[:, k] for k, side in enumerate(("chosen", "rejected"))}
    rewards = record.policy if args.beta is None else args.beta * record.ratios
    return Loss(record.policy.new_zeros(len(record.policy)), rewards, metrics=metrics)


CARD = LossCard(
    name="compared",
    fn=compared,
    args=Args,
    data="pair",
    paper="https://arxiv.org/abs/2305.18290",
    summary="log-probabilities of pairs",
    words=lambda args: "log-probabilities of pairs",
    needs_reference=lambda args: args.beta is not None,
)


def run(run: Run) -> int:
    """Shares of pairs whose chosen answer is the likelier one, and mean differences."""
    opened = open_model(run)
    run = opened.run
    rows = read(run, opened, "pair", encoder(run, opened.checkpoint, every=False))
    model = _loaded(run, opened)
    reference = _reference(run, opened)
    checkpoint = opened.checkpoint
    collate = Collator(
        pad_id=checkpoint.tokenizer.pad_token_id,
        layout=checkpoint.layout,
        adapter=checkpoint.adapter,
        placeholder=model.placeholder,
    )
    args = Args(run.eval.beta if reference is not None else None)
    what = Measure(card=CARD, args=args, model=model.net, collate=collate, reference=reference)
    found = evaluate(run, checkpoint, rows.groups, what).means
    values: Values = {**model_facts(opened), **rows.facts()}
    values |= {name: found[name] for name in _LOGPS}
    if reference is not None:
        asked = run.eval.ref_model or "the model without its adapter"
        values |= {"reference": asked, "beta": run.eval.beta} | {name: found[name] for name in _REWARDS}
    publish(run, values)
    return 0


def _loaded(run: Run, opened: Opened) -> Any:
    """The weights, as the pt engine loads them, able to score tokens."""
    engine: Any = open_engine(run.replace("eval", infer_backend="pt"), opened)
    name = adapter_of(opened)
    engine.model.switch(engine.known_as.get(name, name))
    add_scoring(engine.model.base)
    return engine.model


def _reference(run: Run, opened: Opened) -> Reference | None:
    name = run.eval.ref_model
    if not name:
        return AdapterOff() if opened.adapters and not run.use.merge_lora else None
    there = Path(name).expanduser().is_dir()
    named: dict[str, Any] = {"ckpt_dir": name} if there else {"ckpt_dir": None, "model": name, "model_type": None}
    other_run = run.replace("--ref_model", adapters=[], merge_lora=False, **named)
    other = open_model(other_run)
    if other.checkpoint.tokenizer.get_vocab() != opened.checkpoint.tokenizer.get_vocab():
        raise UserError(f"--ref_model {name} has another tokenizer than {opened.model_folder}")
    return FrozenCopy(_loaded(other.run, other).net)
