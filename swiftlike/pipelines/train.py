"""`swiftlike sft` and `swiftlike rlhf`, top to bottom: data first, then the plan, then weights, then training."""

from __future__ import annotations

import dataclasses as dc
import functools
from pathlib import Path
from typing import Any

import torch

from swiftlike.core.log import get_logger, is_main, world_size
from swiftlike.core.merge import Run
from swiftlike.data.bucketing import Groups
from swiftlike.data.collate import Collator, StandIn
from swiftlike.data.packed import Packed
from swiftlike.losses import LOSSES
from swiftlike.losses.base import LossCard
from swiftlike.models.load import locate
from swiftlike.models.reference import Stored
from swiftlike.models.tuning import learning_rates
from swiftlike.pipelines.assemble import make_reference, may_train_vision, policy
from swiftlike.pipelines.continuing import check_files, made_of, nothing_left, resume_folder
from swiftlike.pipelines.faults import explained, train
from swiftlike.pipelines.folders import shared_folder
from swiftlike.pipelines.plan import headline, make_plan
from swiftlike.pipelines.prepare import Checkpoint, encoder, open_checkpoint
from swiftlike.pipelines.restarts import after_restart, remember
from swiftlike.pipelines.rewards import (
    classifier_padding,
    end_tokens,
    is_reward,
    kept_pooling,
    pooling_of,
    spare_padding,
)
from swiftlike.pipelines.room import refuse_too_large
from swiftlike.pipelines.rows import Data, decided, pixel_maker, read_data
from swiftlike.pipelines.settings import derive, seeded, spaced_steps, total_steps, training_arguments
from swiftlike.pipelines.sharding import refuse_without_cards, share

log = get_logger(__name__)


@dc.dataclass(frozen=True)
class Trained:
    """Where a run left its results, and its last numbers."""

    folder: Path
    metrics: dict[str, float]


def quiet_transformers() -> None:
    """No bars for loading, no notes about names that differ between the versions we support."""
    import warnings

    from transformers.utils import logging

    logging.disable_progress_bar()
    for library in ("transformers", "torch.distributed"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=library)


def lean_trainer(run: Run) -> None:
    """Keep transformers' trainer from importing what it would only ask questions about: datasets, with pandas and
    pyarrow half a second (are rows such tables?), and DeepSpeed, a third (is a model wrapped in its engine?)."""
    from accelerate.utils import other
    from transformers import utils

    utils.is_datasets_available = lambda: False
    other.is_deepspeed_available = lambda: bool(run.train.deepspeed)


def loss_card(run: Run) -> LossCard:
    """The objective of a run."""
    return LOSSES.get("sft" if run.command == "sft" else run.rlhf.rlhf_type)


def run(run: Run) -> Trained | int | None:
    """Train. With `--dry_run`, show the plan and stop before weights are loaded. Stopped by SIGTERM, it gives the exit
    code."""
    quiet_transformers()
    lean_trainer(run)
    refuse_without_cards(run.train)
    run = after_restart(run)
    card = loss_card(run)
    check_files(run)
    checkpoint = open_checkpoint(run, weights=False)
    run = seeded(run)
    data = read_data(run, checkpoint, card)
    run = settled(run, card, data)
    for line in headline(run, checkpoint, card):
        log.info("%s", line)
    if advice := card.advice(data.train.briefs, run.loss, run.train.batch_size * world_size()):
        log.warning("%s", advice)
    data = decided(data, card)
    spaced = spaced_steps(run, len(data.train))
    if resume_folder(run) is not None and nothing_left(run, data, spaced):
        return None
    memory, placed = estimate(run, checkpoint, card, data) if run.train.dry_run else ({}, [])
    plan = make_plan(run, checkpoint, card, data.train, memory)
    for line in [*plan.lines(), *placed]:
        log.info("%s", line)
    if run.train.dry_run:
        return None
    refuse_too_large(run, card, plan)
    torch.manual_seed(run.train.seed)
    folder = shared_folder(run, checkpoint)
    remember(folder)
    with explained(run, folder):
        trainer = build(run, checkpoint, card, data, folder)
        code = train(trainer, run, resume_folder(run))
        leave_together()
    if code:
        return code
    if is_main():
        log.info("finished: %s", folder)
    return Trained(folder, _last_numbers(trainer.state.log_history))


def settled(run: Run, card: LossCard, data: Data) -> Run:
    """The run with every value decided that the rows decide."""
    run = kept_pooling(derive(run, data.pictures), card)
    values = card.derive(data.train.briefs, run.loss)
    return run.replace("derived", **values) if values else run


def estimate(run: Run, checkpoint: Checkpoint, card: LossCard, data: Data) -> tuple[dict[str, int], list[str]]:
    """Memory of one device as the run is placed, by part, and where its layers go."""
    from swiftlike.pipelines.planner import estimate_run  # gone through for --dry_run only

    return estimate_run(run, checkpoint, card, data)


def leave_together() -> None:
    """Close the process group when all ranks are done: one that is torn down at exit may abort."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def build(run: Run, checkpoint: Checkpoint, card: LossCard, data: Data, folder: Path) -> Any:
    """Model, reference and trainer."""
    from swiftlike.trainers.checkpoint import CheckpointTrainer
    from swiftlike.trainers.records import agreed
    from swiftlike.trainers.spaced import Spaced

    vision_trained = checkpoint.adapter is not None and may_train_vision(run.tuner)
    steps = total_steps(run, len(data.train))
    # before the model: DeepSpeed and FSDP set up from_pretrained here
    arguments = training_arguments(run, folder, steps, bool(data.val), vision_trained)
    source = locate(run.model)
    if is_reward(card) and run.tuner.sft_type == "full":
        spare_padding(checkpoint)
    model = policy(run, checkpoint, card, source.folder)
    reference = make_reference(run, checkpoint, card, source.folder)
    pad_id = classifier_padding(model, run, card, checkpoint)
    sharded = bool(run.train.fsdp or run.train.deepspeed)
    collate = Collator(
        pad_id=checkpoint.tokenizer.pad_token_id,
        layout=checkpoint.layout,
        adapter=checkpoint.adapter,
        placeholder=encoder(run, checkpoint, False).placeholder,
        prompt_nll=card.needs_prompt_nll(run.loss),
        keys=isinstance(reference, Stored),
        origins=True,
        # not for DDP: it copes, and a gradient of zero is another optimiser step than none
        stand_in=stand_in(checkpoint) if world_size() > 1 and sharded else None,
        pooling=pooling_of(run, card),
        ends=end_tokens(checkpoint),
        end_to_end=checkpoint.end_to_end,
    )
    trainer = CheckpointTrainer(
        model=model,
        args=arguments,
        card=card,
        loss_args=run.loss,
        reference=reference,
        shuffle=run.data.dataset_shuffle,
        on_nan=run.train.on_nan,
        learning_rates=learning_rates(model, source.card, run.tuner, run.train.learning_rate),
        data_collator=collate,
        train_dataset=data.stream or groups(data.train, checkpoint, run),
        eval_dataset=groups(data.val, checkpoint, run) if data.val else None,
        processing_class=checkpoint.tokenizer,
        source_folder=source.folder,
        image_processor=checkpoint.image_processor,
        classifier_pad=pad_id,
        run=run,
        made_of=made_of(run, data),
    )
    share(model, reference, trainer.accelerator)
    if isinstance(reference, Stored) and sharded:
        reference.together = functools.partial(agreed, trainer.accelerator)
    observe(trainer, run, card, folder)
    if spaced := spaced_steps(run, len(data.train)):  # behind the callbacks that save at other steps
        trainer.add_callback(Spaced(folder, spaced, resume_folder(run)))
    return trainer


def observe(trainer: Any, run: Run, card: LossCard, folder: Path) -> None:
    """Replace transformers' output by ours, and watch for the end."""
    from transformers import EarlyStoppingCallback, PrinterCallback

    from swiftlike.trainers.observe import Advice, Curves, FinalEvaluation, LogFile, Progress
    from swiftlike.trainers.profile import Profile
    from swiftlike.trainers.reliability import Reliability

    trainer.remove_callback(PrinterCallback)
    seen, advice = LogFile(folder, lambda: trainer.seen), Advice(policy=not is_reward(card))
    for callback in (seen, Progress(), FinalEvaluation(), Curves(folder), advice):
        trainer.add_callback(callback)
    if card.measure is not None:
        trainer.add_callback(Reliability(folder, lambda: trainer.measured))
    if run.train.profile:
        trainer.add_callback(Profile(folder, run.train.profile))
    if run.train.early_stop_interval:
        trainer.add_callback(EarlyStoppingCallback(run.train.early_stop_interval))


def groups(encoded: Packed, checkpoint: Checkpoint, run: Run) -> Groups:
    """A data set whose pictures are decoded when a group is asked for."""
    return Groups(encoded, pixel_maker(checkpoint, run))


def stand_in(checkpoint: Checkpoint) -> StandIn | None:
    """A small blank picture, for vision models."""
    if checkpoint.adapter is None:
        return None
    from PIL import Image as Pillow

    blank = Pillow.new("RGB", (64, 64))
    return StandIn(checkpoint.adapter.pixels(blank), checkpoint.adapter.count(64, 64))


def _last_numbers(history: list[dict[str, float]]) -> dict[str, float]:
    """The newest value of every metric."""
    merged: dict[str, float] = {}
    for record in history:
        merged |= record
    return merged
