"""`--on_nan`: a step whose loss or gradient is not finite stops the run, or changes nothing."""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import TrainerCallback

from swiftlike.core.errors import UserError
from swiftlike.core.log import get_logger
from swiftlike.losses.base import Loss
from swiftlike.trainers.group import GroupTrainer
from swiftlike.trainers.records import agreed

log = get_logger(__name__)
SHOWN = 10  # rows that are named
MOST = 10  # steps skipped in a row: by then it is the weights, not the rows


class FiniteTrainer(GroupTrainer):
    """Looks at every optimiser step before it is made, on all ranks together.

    `on_nan="skip"` leaves the whole step out on all ranks: weights, optimiser and the objective's statistics stay as
    they were, while the schedule and the data go on, so that no later step changes its rows or its learning rate.
    """

    def __init__(self, *args: Any, on_nan: str = "stop", **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.on_nan = on_nan
        self.skipped = self.skipped_since_log = 0
        self._in_a_row = self._since_log = 0
        self._watched: list[tuple[list[str], Tensor, Tensor]] = []  # of each micro-batch: rows, what of them is finite
        self._norm: Any = None
        self.add_callback(_Judge(self))

    def objective(self, model: nn.Module, inputs: dict[str, Any], training: bool) -> tuple[Any, Loss | None]:
        record, loss = super().objective(model, inputs, training)
        if training and loss is not None:
            real = inputs["real"].tolist()
            names = [name for name, counts in zip(inputs["origins"], real, strict=True) if counts]
            seen = torch.isfinite(self._scored.detach())[inputs["real"]].flatten(1).all(1)
            self._watched.append((names, seen, torch.isfinite(loss.rows.detach())))
        return record, loss

    def _get_grad_norm(self, *args: Any, **keywords: Any) -> Any:
        self._norm = super()._get_grad_norm(*args, **keywords)
        return self._norm

    def begin_step(self) -> None:
        """Remember what a skipped step must not change."""
        self._watched.clear()
        self._before = self._tr_loss.clone(), dict(self.tally.sums), self.state_of_loss

    def judge_step(self) -> None:
        """Before the optimiser's step, on all ranks. UserError when the run has to stop."""
        self._since_log = self.state.global_step + 1 - self._globalstep_last_logged
        finite = math.isfinite(self._tr_loss)
        # with a scaler, gradients that are not finite are part of how it finds its scale: it leaves such steps out
        steep = not finite or (self.accelerator.scaler is None and not math.isfinite(self._norm or 0.0))
        if agreed(self.accelerator, not steep):
            self._in_a_row = 0
            return
        rows = gather_object(self._rows())
        lost = not agreed(self.accelerator, finite)
        what = "the loss is not finite" if lost else "the loss is finite, but its gradient is not"
        text = f"step {self.state.global_step + 1}: {what}"
        self._in_a_row += 1
        if self.on_nan == "stop" or self._in_a_row == MOST:
            raise UserError(f"{text}; rows:", hint=self._advice(), problems=_some(rows))
        log.warning("%s; it is skipped (--on_nan skip); rows: %s", text, ", ".join(_some(rows)))
        self._skip()

    def _rows(self) -> list[str]:
        """The rows of this rank that are to blame: those whose own numbers are not finite, then those whose loss is
        not, then those of every micro-batch."""
        for column in (1, 2):
            found = [
                name
                for one in self._watched
                if len(one[0]) == len(one[column])
                for name, fine in zip(one[0], one[column].tolist(), strict=True)
                if not fine
            ]
            if not agreed(self.accelerator, not found):
                return found
        return [name for names, _, _ in self._watched for name in names]

    def _advice(self) -> str:
        if self._in_a_row == MOST:
            return f"{MOST} steps in a row: the weights are spoilt; go on from an earlier checkpoint, with a lower rate"
        return (
            "mend or remove the rows, lower --learning_rate, or train in bfloat16, not float16; "
            "--on_nan skip leaves such steps out"
        )

    def _skip(self) -> None:
        self._tr_loss, self.tally.sums, self.state_of_loss = self._before
        self.skipped += 1
        self.skipped_since_log += 1
        if self.accelerator.scaler is None:  # a parameter without gradient is left alone, its moments and decay too
            for group in self.optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Training lines are about the steps that were made; `skipped_steps` counts the others since the start."""
        if "loss" in logs and "eval_loss" not in logs and self.skipped:
            made = self._since_log - self.skipped_since_log
            loss = logs.pop("loss") * self._since_log / max(made, 1)
            logs |= {"loss": loss} if made else {}
            if not math.isfinite(logs.get("grad_norm", 0.0)):
                del logs["grad_norm"]
            logs["skipped_steps"] = self.skipped
            self.skipped_since_log = 0
        super().log(logs, start_time)


class _Judge(TrainerCallback):
    def __init__(self, trainer: FiniteTrainer) -> None:
        self.trainer = trainer

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.trainer.begin_step()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.trainer.judge_step()


def _plain(norm: Any) -> float:
    """A gradient norm as a number: of sharded weights it is still spread over the ranks."""
    whole = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return 0.0 if whole is None else float(whole)


def _some(rows: list[str]) -> list[str]:
    """As many as one reads."""
    more = [f"and {len(rows) - SHOWN} more"] if len(rows) > SHOWN else []
    return rows[:SHOWN] + more
