"""Where the time of a step goes (`--profile N`): a Chrome trace and a table of one screen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback

from swiftlike.core.log import get_logger

# Parts of a step as the trace names them.
LOADING, POLICY, REFERENCE, OBJECTIVE = PARTS = tuple(
    f"swiftlike {name}" for name in ("loading", "policy forward", "reference", "objective")
)
_OPTIMISER = "Optimizer.step#"  # torch's own name begins like this
_OWN = ("swiftlike ", "Optimizer.", "ProfilerStep", "PyTorch Profiler")
_SHOWN = 12  # operations in the table
_BEFORE = 1  # steps that are not looked at: the first one allocates and compiles
log = get_logger(__name__)


class Profile(TrainerCallback):
    """Watches `steps` steps after the first one of this process; the files go to `folder`/profile."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder, self.steps = folder / "profile", steps
        self.running: Any = None
        self.done, self.begun = 0, 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.done += 1
        if self.done == _BEFORE:  # from here on, so that the next step's loading is seen too
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
            self.running = profile(activities=activities, acc_events=True)
            self.running.start()
            self.begun = time.perf_counter()
        elif self.done == _BEFORE + self.steps:
            self._stop(self.steps, args.process_index)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.done > _BEFORE:
            self._stop(self.done - _BEFORE, args.process_index)
        elif self.running is not None:
            self.running.stop()
            log.warning("--profile: the run ended before there was a step to look at")

    def _stop(self, steps: int, rank: int) -> None:
        if self.running is None:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = (time.perf_counter() - self.begun) / steps
        self.running.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"rank{rank}"
        self.running.export_chrome_trace(str(self.folder / f"{name}.json.gz"))
        lines = table(self.running.key_averages(), steps, seconds)
        (self.folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.running = None
        if rank == 0:
            for line in lines:
                log.info("%s", line)
            log.info("trace (open it in chrome://tracing or ui.perfetto.dev): %s", self.folder / f"{name}.json.gz")


def table(events: Sequence[Any], steps: int, seconds: float) -> list[str]:
    """Of a step that takes so many seconds, the share of each part, by the processor's clock; then the operations that
    take most by themselves, of the device where one works."""
    device = any(event.self_device_time_total for event in events)
    found = {name: _of(events, name) / steps for name in PARTS}
    found["optimiser"] = _of(events, _OPTIMISER) / steps
    found["backward and the rest"] = seconds - sum(found.values())
    lines = [f"profile of {steps} steps: {seconds:.4f} s each"]
    lines += [_line(name.removeprefix("swiftlike "), value, seconds) for name, value in found.items()]
    own = [event for event in events if not event.key.startswith(_OWN)]
    heavy = sorted(own, key=lambda event: _self(event, device), reverse=True)[:_SHOWN]
    lines.append(f"heaviest operations, each by itself, on the {'device' if device else 'processor'}:")
    return lines + [
        _line(event.key[-48:], _self(event, device) / steps, seconds, event.count // steps) for event in heavy
    ]


def _of(events: Sequence[Any], name: str) -> float:
    return sum(event.cpu_time_total for event in events if event.key.startswith(name)) / 1e6


def _line(name: str, seconds: float, total: float, calls: int | None = None) -> str:
    share = 100 * seconds / total if total else 0.0
    return f"  {name:<48} {seconds:9.4f} s {share:5.1f} %" + (f" {calls:>7} calls" if calls else "")


def _self(event: Any, device: bool) -> float:
    return (event.self_device_time_total if device else event.self_cpu_time_total) / 1e6
