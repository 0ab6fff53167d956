"""Training, and what is said when it does not come to its end."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from swiftlike.core.log import get_logger, is_main
from swiftlike.core.merge import DEFAULT, Run
from swiftlike.trainers.stopping import CODE, Terminated

log = get_logger(__name__)


def train(trainer: Any, run: Run, resume: str | None) -> int:
    """Train to the end and give 0, or stop at SIGTERM with a checkpoint and give the exit code."""
    with Terminated(trainer.accelerator) as terminated:
        trainer.add_callback(terminated)  # behind those that decide what is saved
        trainer.train(resume_from_checkpoint=resume)
    if not terminated.stopping:
        return 0
    if is_main():
        state = trainer.state
        last = Path(trainer.args.output_dir) / f"checkpoint-{state.global_step}"
        log.warning("SIGTERM: stopped after step %d of %d; to go on:", state.global_step, state.max_steps)
        log.warning("  %s", go_on(run, last))
    return CODE


def go_on(run: Run, checkpoint: Path) -> str:
    """The command line that continues a run; the checkpoint remembers the other flags."""
    words = ["swiftlike", run.command, "--resume_from_checkpoint", str(checkpoint)]
    for name in ("output_dir", "add_version"):
        if run.origin.get(name, DEFAULT) != DEFAULT:
            words += [
                f"--{name}",
                str(getattr(run.train, name)).lower() if name == "add_version" else run.train.output_dir,
            ]
    return shlex.join(words)
