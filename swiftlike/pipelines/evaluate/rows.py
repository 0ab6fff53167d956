"""Rows with verdicts as groups, and exact means of an objective's metrics over them by the trainer's evaluation."""

from __future__ import annotations

import dataclasses as dc
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.core.log import get_logger
from swiftlike.core.merge import DEFAULT, Run
from swiftlike.data.check import Problem
from swiftlike.data.encode import Encoder
from swiftlike.data.load import load_rows
from swiftlike.data.packed import Packed
from swiftlike.data.prepared import encode_rows
from swiftlike.datasets_registry.row import Row
from swiftlike.losses.base import LossCard
from swiftlike.pipelines.prepare import UNLIMITED, Checkpoint, settle
from swiftlike.pipelines.records import SEED
from swiftlike.pipelines.serving import context_of
from swiftlike.pipelines.train import groups as with_pictures

log = get_logger(__name__)


@dc.dataclass(frozen=True)
class Read:
    """Groups that can be measured, and how many rows cannot, by reason."""

    groups: Packed
    bad: Mapping[str, int]
    left_out: Mapping[str, int]

    def facts(self) -> dict[str, Any]:
        """The account, for the results."""
        return {"rows": len(self.groups), "bad_rows": dict(self.bad), "left_out": dict(self.left_out)}


@dc.dataclass(frozen=True)
class Gone:
    """Rows that were not encoded: bad ones, and good ones that give nothing, by reason."""

    bad: Sequence[Problem]
    left_out: Mapping[str, int]


def read(run: Run, opened: Any, kind: str, encode: Encoder) -> Read:
    """Rows of `--dataset` and `--val_dataset`, none drawn away for training. Bad ones are counted, or stop the run with
    `--on_bad_row error`. Without `--max_length` the model's own limit is the limit."""
    run = dropping(run)
    data = dc.replace(run.data, dataset=[], val_dataset=[*run.data.dataset, *run.data.val_dataset])
    loaded = load_rows(data, kind, SEED, "hf" if run.model.use_hf else "ms")
    for line in loaded.report.as_text().splitlines():
        log.info("%s", line)
    left_out: Counter[str] = Counter()
    for one in loaded.report.datasets:
        left_out += one.left_out.counts
    return encoded(run, opened, encode, loaded.val, Gone(loaded.report.problems, left_out))


def dropping(run: Run) -> Run:
    """The run, bad rows being counted unless it says otherwise."""
    asked = run.origin.get("on_bad_row", DEFAULT) != DEFAULT
    return run if asked else run.replace("eval", on_bad_row="drop")


def encoded(run: Run, opened: Any, encode: Encoder, rows: Sequence[Row], gone: Gone) -> Read:
    """The rows that fit the model, with an account of the others and of those that were `gone` before."""
    groups, problems = encode_rows(dc.replace(encode, max_length=_limit(run, opened)), rows, run.data.dataset_num_proc)
    settle(problems, run, "data")
    if not groups:
        raise UserError(f"no row is left to measure {run.eval.eval_type} on")
    return Read(groups, _kinds([*gone.bad, *problems]), gone.left_out)


def _limit(run: Run, opened: Any) -> int:
    asked = run.data.max_length
    return context_of(run, opened) if asked is None else UNLIMITED if asked == -1 else asked


def _kinds(problems: list[Problem]) -> dict[str, int]:
    """Bad rows by reason; a row with several is counted once, under its first."""
    first = {one.origin: one.kind for one in reversed(problems)}
    return dict(Counter(first.values()))


@dc.dataclass(frozen=True, kw_only=True)
class Measure:
    """What is measured, and with what. `collate` makes batches for `model`; `reference` as objectives have it."""

    card: LossCard
    args: Any
    model: Any
    collate: Callable[..., dict[str, Any]]
    reference: Any = None


@dc.dataclass(frozen=True)
class Measured:
    """Means of the metrics, under the names of training without their eval_, and the sums that are no means."""

    means: dict[str, float]
    sums: Mapping[str, tuple[float, float]]


def evaluate(run: Run, checkpoint: Checkpoint, groups: Packed, what: Measure) -> Measured:
    """One pass of the trainer's own evaluation."""
    from transformers import PrinterCallback

    from swiftlike.trainers.group import GroupTrainer

    with _arguments(run.eval.eval_batch_size) as arguments:
        trainer = GroupTrainer(
            model=what.model,
            args=arguments,
            card=what.card,
            loss_args=what.args,
            reference=what.reference,
            data_collator=what.collate,
            eval_dataset=with_pictures(groups, checkpoint, run),
        )
        trainer.remove_callback(PrinterCallback)
        found = trainer.evaluate()
    own = ("_runtime", "_per_second")
    means = {name.removeprefix("eval_"): value for name, value in found.items() if not name.endswith(own)}
    means.pop("epoch", None)
    return Measured(means, trainer.measured)


@contextmanager
def _arguments(batch: int) -> Iterator[Any]:
    import torch
    from transformers import TrainingArguments

    with tempfile.TemporaryDirectory() as folder:
        yield TrainingArguments(
            output_dir=folder,
            per_device_eval_batch_size=batch,
            use_cpu=not torch.cuda.is_available(),
            remove_unused_columns=False,
            label_names=[],
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
