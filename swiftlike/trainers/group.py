"""One trainer for every objective: SFT, pairs, groups, labelled answers, reward models."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import record_function
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput

from swiftlike.data.bucketing import Groups, GroupSampler
from swiftlike.losses.base import Loss, LossCard
from swiftlike.losses.metrics import preference_metrics
from swiftlike.models.logps import group_logps, model_inputs
from swiftlike.models.reference import Reference
from swiftlike.models.reward_head import group_rewards, reward_inputs
from swiftlike.trainers import profile
from swiftlike.trainers.records import RECORDS, AllRanks, Tally, averages, computed, everywhere, only


class GroupTrainer(Trainer):
    """Trains `card` on groups.

    The loss of an optimiser step is the mean over all its groups plus the NLL over all its tokens, over ranks and
    micro-batches alike: how a step is split does not change it. `learning_rates` maps parameter names to rates that
    differ from the rest; `shuffle` gives every epoch its own order.
    """

    # compute_loss scales by the whole step's counts; both switches say so, to newer and older transformers
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *args: Any,
        card: LossCard,
        loss_args: Any,
        reference: Reference | None = None,
        learning_rates: dict[str, float] | None = None,
        shuffle: bool = True,
        **keywords: Any,
    ) -> None:
        super().__init__(*args, **keywords)
        self.card, self.loss_args, self.reference = card, loss_args, reference
        self.learning_rates, self.shuffle = learning_rates or {}, shuffle
        self.state_of_loss = card.start(loss_args, self.args.seed) if card.start else None
        self.tally = Tally()
        self.measured: dict[str, tuple[float, float]] = {}  # of the last evaluation, for what is drawn from it
        self.order: GroupSampler | None = None  # of training
        self.seen = torch.zeros(2, dtype=torch.long)  # tokens computed, positions computed
        self.model_accepts_loss_kwargs = True
        self.add_callback(_Order(self))

    # -- the loss -----------------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This micro-batch's share of the step's loss, times the ranks that will average it."""
        record, loss = self.objective(model, inputs, training=True)
        if loss is None:
            return 0.0 * self._scored.sum()
        self.tally.add(self.metrics(record, loss))
        units, tokens = num_items_in_batch if num_items_in_batch is not None else self.count([inputs])
        value = loss.rows.sum() / units
        if loss.nll is not None:
            value = value + loss.nll.weight * loss.nll.total / tokens
        value = value * self.accelerator.num_processes
        return (value, {}) if return_outputs else value

    def objective(self, model: nn.Module, inputs: dict[str, Any], training: bool) -> tuple[Any, Loss | None]:
        """Forward, reference and objective of one micro-batch. No Loss when all its rows are filler.

        Running statistics of an objective move in training only.
        """
        ranks = AllRanks(self.accelerator, inputs["real"])
        record = only(self._record(model, inputs, ranks), inputs["real"])
        shared: tuple[Any, ...] = ()
        if self.card.collect is not None:
            shared = (None,)
            if training:  # all ranks take part, also those with nothing but filler
                one, self.state_of_loss = self.card.collect(record, self.loss_args, self.state_of_loss, ranks)
                shared = (one,)
        if not bool(inputs["real"].any()):
            return record, None
        with record_function(profile.OBJECTIVE):
            return record, self.card.fn(record, self.loss_args, *shared)

    def _record(self, model: nn.Module, inputs: dict[str, Any], ranks: AllRanks) -> Any:
        if self.card.record == "rewards":
            with record_function(profile.POLICY):
                self._logits, self._scored = None, group_rewards(model(**reward_inputs(inputs)), inputs)
            return RECORDS["rewards"](self._scored, None, inputs, ranks.mean)
        with record_function(profile.POLICY):
            logps = group_logps(model(**model_inputs(inputs)), inputs)
        reference = None
        if self.reference is not None:
            with record_function(profile.REFERENCE), self.accelerator.autocast():
                reference = self.reference(self.accelerator.unwrap_model(model), inputs)
        self._logits, self._scored = (logps["logits"], inputs["present"] & inputs["real"][:, None]), logps["policy"]
        return RECORDS[self.card.record](logps, reference, inputs, ranks.mean)

    def metrics(self, record: Any, loss: Loss) -> dict[str, tuple[Tensor, Tensor]]:
        """(sum, count) of everything that is logged about a micro-batch."""
        values = preference_metrics(record, loss)
        if self.card.data == "pair" and self._logits is not None:
            logits, present = self._logits
            for column, name in enumerate(("logits/chosen", "logits/rejected")):
                values[name] = (logits[present[:, column], column].sum(), present[:, column].sum())
        return values

    # -- what a step counts ---------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The micro-batches of one optimiser step, and its rows and NLL tokens over all ranks."""
        batches = []
        with record_function(profile.LOADING), contextlib.suppress(StopIteration):
            for _ in range(num_batches):
                batches.append(next(epoch_iterator))  # noqa: PERF401 - StopIteration must keep what came before
        return batches, self.count(batches)

    def count(self, batches: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
        """Units of the loss and NLL tokens of these batches over all ranks."""
        size = max(len(batches), self.args.gradient_accumulation_steps)  # the same on every rank
        counts = torch.zeros(size, 2, dtype=torch.long, device=self.args.device)
        for row, batch in zip(counts, batches, strict=False):
            real, scores = batch["real"], batch.get("scores")
            prompt = batch.get("prompt_rows")
            prompts = None if prompt is None else torch.bincount(prompt, minlength=len(real))[real]
            row[0] = self.card.units(None if scores is None else scores[real], batch["present"][real], self.loss_args)
            row[1] = self.card.nll_tokens(batch["tokens"][real], prompts, self.loss_args)
            self.seen += computed(batch)
        units, tokens = self.accelerator.reduce(counts, reduction="sum").unbind(1)
        if self.card.kept is not None:
            units = units.new_tensor([self.card.kept(n, self.loss_args) if n else 0 for n in units.tolist()])
        return units.sum().clamp(min=1), tokens.sum().clamp(min=1)

    # -- order --------------------------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> GroupSampler | None:
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        size, accumulation = self.args.train_batch_size, self.args.gradient_accumulation_steps
        self.order = self._sampler(dataset, size, accumulation, training=True)
        return self.order

    def _get_eval_sampler(self, eval_dataset: Any) -> GroupSampler | None:
        return self._sampler(eval_dataset, self.args.eval_batch_size, 1, training=False)

    def _sampler(self, dataset: Any, batch: int, accumulation: int, training: bool) -> GroupSampler | None:
        if not isinstance(dataset, Groups):
            return None  # streamed rows come in their own order
        together = batch * self.args.world_size
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        return GroupSampler(
            dataset.groups.shared_lengths,
            per_step=together * accumulation if training else len(dataset),
            per_round=together,
            ranks=self.args.world_size,
            seed=seed,
            shuffle=training and self.shuffle,
            partners=self.card.record == "labelled",
        )

    def create_optimizer(self, *args: Any, **keywords: Any) -> Any:
        """transformers' optimiser, its groups divided further where parameters have learning rates of their own."""
        made = self.optimizer is None
        optimizer = super().create_optimizer(*args, **keywords)
        if made:
            divide(optimizer, {id(p): self.learning_rates.get(name) for name, p in self.model.named_parameters()})
        return optimizer

    # -- evaluation -----------------------------------------------------------------------------------------------

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Loss and metrics over a whole set: exact means over its rows and tokens, training state untouched."""
        model = self.model_wrapped if self.is_in_train else self._wrap_model(self.model, training=False)
        if not self.accelerator._models:
            model = self.accelerator.prepare_model(model, evaluation_mode=True)
        was_training, tally, measured = model.training, Tally(), Tally()
        model.eval()
        for inputs in dataloader:
            with torch.no_grad():
                record, loss = self.objective(model, self._prepare_inputs(inputs), training=False)
            if loss is None:
                continue
            values = self.metrics(record, loss)
            values["rows"] = (loss.rows.sum(), loss.units)
            if loss.nll is not None:
                values["weight"] = values["rows"][0].new_tensor([loss.nll.weight, 1.0]).unbind()
            tally.add(values)
            if self.card.measure is not None:
                measured.add(self.card.measure(record, self.loss_args))
        model.train(was_training)
        means = averages(everywhere(tally, self.accelerator))
        self.measured = everywhere(measured, self.accelerator)
        value = means.pop("rows", 0.0) + means.pop("weight", 0.0) * means.get("nll_loss", 0.0)
        means |= self.card.summarise(self.measured, self.loss_args)
        metrics = {f"{metric_key_prefix}_{name}": number for name, number in {"loss": value, **means}.items()}
        return EvalLoopOutput(
            predictions=(), label_ids=None, metrics=metrics, num_samples=self.num_examples(dataloader)
        )

    # -- log ------------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Training lines get the metrics gathered since the last one."""
        if "loss" in logs and "eval_loss" not in logs:
            logs |= averages(everywhere(self.tally, self.accelerator))
            self.tally.clear()
        super().log(logs, start_time)


class _Order(TrainerCallback):
    """Tells the sampler which epoch it is. transformers' own call is lost in what accelerate wraps around a sampler
    when several ranks go on in the middle of an epoch: they would go on with the first epoch's order."""

    def __init__(self, trainer: GroupTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.trainer.order is not None:
            self.trainer.order.set_epoch(int(state.epoch))


def divide(optimizer: Any, rate_of: dict[int, float | None]) -> None:
    """Move parameters that have a learning rate of their own (by id) into groups of their own."""
    for group in list(optimizer.param_groups):
        for rate in sorted({rate_of.get(id(p)) for p in group["params"]} - {None}):
            own = [p for p in group["params"] if rate_of.get(id(p)) == rate]
            group["params"] = [p for p in group["params"] if rate_of.get(id(p)) != rate]
            optimizer.add_param_group({**group, "params": own, "lr": rate})
