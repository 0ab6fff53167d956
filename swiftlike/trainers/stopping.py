"""SIGTERM during training: the step is finished, a checkpoint is written, and all ranks leave together."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from transformers import TrainerCallback

from swiftlike.core.log import is_main
from swiftlike.trainers.records import agreed

CODE = 128 + signal.SIGTERM  # what a shell gives for a process that SIGTERM has ended
# Seconds. One request may come twice: to the whole process group, and from the launcher that passes it on.
SAME = 2.0
_HEARD = b"swiftlike: SIGTERM: a checkpoint is saved after this step; a second one ends at once\n"


class Terminated(TrainerCallback):
    """Hears SIGTERM while it is entered, and stops training at the next step's end on all ranks, if any has heard it.

    transformers' own `enable_jit_checkpoint` lets each rank decide alone, so that they may save at different steps.
    """

    def __init__(self, accelerator: Any) -> None:
        self.accelerator = accelerator
        self.heard: float | None = None
        self.stopping = False
        self._usual: Any = None

    def __enter__(self) -> Terminated:
        if threading.current_thread() is threading.main_thread():
            self._usual = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._usual is not None:
            signal.signal(signal.SIGTERM, self._usual)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.heard is None:
            self.heard = time.monotonic()
            if is_main():
                os.write(2, _HEARD)  # a logger may be in the middle of a line
        elif time.monotonic() - self.heard > SAME:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _decide(self, state: Any, control: Any) -> None:
        """All ranks come here at the same steps. One that has reached its end needs no stop."""
        if not self.stopping and state.global_step < state.max_steps:
            self.stopping = not agreed(self.accelerator, self.heard is None)
        if self.stopping:
            control.should_training_stop = control.should_save = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        self._decide(state, control)
        return control

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        self._decide(state, control)
        return control

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Leaving in the middle of an epoch is not its end."""
        if self.stopping and state.epoch % 1:
            control.should_log = control.should_evaluate = control.should_save = False
        return control


def outlive(start: Callable[[int], None] | None, worker: int) -> None:
    """Begin a data loader's worker: SIGTERM to a process group is for the process that trains, which still needs it.
    From that process itself, which sends it at its own end, the worker takes it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_heed_the_parent, daemon=True).start()
    if start is not None:
        start(worker)


def _heed_the_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
