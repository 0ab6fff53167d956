"""What a user sees of a run: a progress line, logging.jsonl, curves, advice. Callbacks of transformers.Trainer."""

from __future__ import annotations

import json
import math
import re
import resource
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from swiftlike.core.files import append_jsonl, atomic
from swiftlike.core.log import get_logger

log = get_logger(__name__)
_NOT_A_CURVE = re.compile(r"epoch|total_flos|elapsed_s|remaining_s|train_loss|(eval|train)_(runtime|\w+_per_second)")
SHOWN = ("loss", "eval_loss", "rewards/accuracies", "eval_rewards/accuracies", "rewards/margins", "grad_norm")


class LogFile(TrainerCallback):
    """One JSON object per log event in `logging.jsonl`, with position, speed, time left and memory."""

    def __init__(self, folder: Path, seen: Any) -> None:
        self.path, self.seen = folder / "logging.jsonl", seen
        self.started = self.first_step = self.before = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started, self.first_step, self.before = time.monotonic(), state.global_step, self.seen().clone()
        if state.is_world_process_zero:
            self._forget(state.global_step)

    def _forget(self, step: int) -> None:
        """Steps that are made again, where a run goes on in its own folder, are logged once."""
        if self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if int(json.loads(line)["step"].partition("/")[0]) <= step]
            if len(kept) < len(lines):
                with atomic(self.path) as file:
                    file.writelines(kept)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs is not None:
            logs |= self._progress(state, args.world_size) if "loss" in logs else {}
            if state.is_world_process_zero:
                where = {"step": f"{state.global_step}/{state.max_steps}", "epoch": state.epoch}
                append_jsonl(self.path, where | {name: value for name, value in logs.items() if name != "epoch"})

    def _progress(self, state: Any, ranks: int) -> dict[str, float]:
        if self.started is None or self.before is None:
            return {}
        elapsed = max(time.monotonic() - self.started, 1e-9)
        steps = max(state.global_step - self.first_step, 1)
        tokens, positions = (self.seen() - self.before).tolist()
        return {
            "elapsed_s": round(elapsed, 1),
            "remaining_s": round(elapsed / steps * (state.max_steps - state.global_step), 1),
            "tokens_per_s": round(tokens * ranks / elapsed, 1),
            "padding": round(1 - tokens / max(positions, 1), 4),
            "memory_gib": round(_memory(), 3),
        }


def _memory() -> float:
    """Peak memory of this process in GiB: the device's where there is one."""
    if torch.cuda.is_available():
        return sum(torch.cuda.max_memory_reserved(d) for d in range(torch.cuda.device_count())) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Progress(TrainerCallback):
    """A live line on a terminal, one plain line per log event elsewhere."""

    def __init__(self) -> None:
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
        if console.is_terminal:
            columns = (
                TextColumn("{task.completed}/{task.total}"),
                BarColumn(24),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
            )
            self.bar = Bar(*columns, console=console)
            self.task = self.bar.add_task("", total=state.max_steps, completed=state.global_step)
            self.bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs is None or not state.is_world_process_zero:
            return
        parts = [f"{name} {logs[name]:.4g}" for name in SHOWN if name in logs]
        if "tokens_per_s" in logs:
            parts += [f"{logs['tokens_per_s']:.0f} tokens/s", f"{_clock(logs['remaining_s'])} left"]
        if not parts:
            return
        if self.bar is None or "eval_loss" in logs:
            log.info("step %d/%d  %s", state.global_step, state.max_steps, "  ".join(parts))
        else:
            self.bar.update(self.task, description="  ".join(parts))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar is not None:
            self.bar.stop()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


class FinalEvaluation(TrainerCallback):
    """The last step is evaluated and saved, whatever the intervals: even a run of one step leaves a checkpoint."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if state.global_step >= state.max_steps:
            control.should_log = True
            control.should_evaluate = args.eval_strategy != "no"
            control.should_save = args.save_strategy != "no"
        return control


class Curves(TrainerCallback):
    """`images/*.png`, one per metric: at the end, and at checkpoints while that costs little of the run's time."""

    SHARE = 0.01  # of the time so far that drawing may take

    def __init__(self, folder: Path) -> None:
        self.folder, self.started, self.spent = folder, time.monotonic(), 0.0

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        before = time.monotonic()
        last = state.global_step >= state.max_steps  # drawn when training ends, a moment later
        if state.is_world_process_zero and not last and self.spent < self.SHARE * (before - self.started):
            draw_curves(self.folder)
            self.spent += time.monotonic() - before

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            draw_curves(self.folder)


def draw_curves(folder: Path) -> list[Path]:
    """Draw every number in `folder/logging.jsonl` against the step. Gives the files."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    images = folder / "images"
    images.mkdir(exist_ok=True)
    series = read_series(folder / "logging.jsonl")
    written = []
    figure = Figure(figsize=(6, 4))
    FigureCanvasAgg(figure)
    for name, points in series.items():
        figure.clear()
        axes = figure.add_axes((0.13, 0.12, 0.84, 0.8))
        steps, values = zip(*points, strict=True)
        axes.plot(
            steps, values, marker="." if len(steps) < 50 else "", color="tab:blue", alpha=0.5 if len(steps) > 20 else 1
        )
        if len(steps) > 20:
            axes.plot(steps, _smooth(values), color="tab:blue")
        axes.set_title(name)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        path = images / f"{name.replace('/', '_')}.png"
        figure.savefig(path, dpi=100)
        written.append(path)
    return written


def read_series(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Metric to its (step, value) points, from a logging.jsonl."""
    series: dict[str, list[tuple[int, float]]] = {}
    if not path.is_file():
        return series
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        step = int(str(record.pop("step", "0")).partition("/")[0])
        for name, value in record.items():
            if isinstance(value, int | float) and math.isfinite(value) and not _NOT_A_CURVE.fullmatch(name):
                series.setdefault(name, []).append((step, value))
    return series


def _smooth(values: Any, decay: float = 0.9) -> list[float]:
    """Exponential moving average, without the bias of its start."""
    out, mean, weight = [], 0.0, 0.0
    for value in values:
        mean, weight = decay * mean + (1 - decay) * value, decay * weight + 1 - decay
        out.append(mean / weight)
    return out


class Advice(TrainerCallback):
    """Says once, in words, when the metrics show what users usually ask about. `policy` is False for reward models."""

    def __init__(self, policy: bool = True) -> None:
        self.policy = policy
        self.said: set[str] = set()
        self.start: dict[str, float] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        for name in ("rewards/chosen", "rewards/margins"):
            self.start.setdefault(name, logs.get(name, 0.0))
        if not math.isfinite(logs["loss"]) or not math.isfinite(logs.get("grad_norm", 0.0)):
            self._say(
                "nan",
                "the loss or its gradient is not finite: lower --learning_rate, or train in bfloat16, not float16",
            )
        fell = logs.get("rewards/chosen", 0.0) < self.start["rewards/chosen"] - 1.0
        if self.policy and fell and logs.get("rewards/margins", 0.0) > self.start["rewards/margins"]:
            self._say(
                "falling",
                "rewards/chosen falls while the margin grows: the policy moves away from both answers, faster from "
                "the rejected one. Usual for DPO; if the answers get worse, raise --rpo_alpha or --beta, or lower "
                "--learning_rate",
            )
        if logs.get("rewards/accuracies", 0.0) == 1.0 and state.global_step <= 5 and state.max_steps > 50:
            self._say(
                "easy",
                "rewards/accuracies is 1.0 after a few steps: does something else than quality tell answers apart?",
            )

    def _say(self, key: str, text: str) -> None:
        if key not in self.said:
            self.said.add(key)
            log.warning(text)
