"""Checkpoints that are spaced over a run, and found under fixed names: `ckpt1` to `ckptN`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from swiftlike.core.files import WHOLE
from swiftlike.core.log import get_logger

log = get_logger(__name__)


class Spaced(TrainerCallback):
    """Saves after these optimiser steps and no others, and keeps the names up to date. `resumed` is the checkpoint that
    the run continues: those that were saved before it may lie beside it."""

    def __init__(self, folder: Path, steps: Sequence[int], resumed: str | None = None) -> None:
        self.folder, self.steps = folder, steps
        self.before = Path(resumed).resolve().parent if resumed else folder

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._name(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        control.should_save = state.global_step in self.steps
        return control

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        control.should_save = False
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._name(state)

    def _name(self, state: Any) -> None:
        if state.is_world_process_zero:
            name_checkpoints(self.folder, [step for step in self.steps if step <= state.global_step], self.before)


def name_checkpoints(folder: Path, steps: Sequence[int], before: Path | None = None) -> None:
    """Make `folder/ckptK` a relative link to the whole checkpoint after the K-th of these steps, in `folder` or in that
    of the run `before`; other such links are taken away. A step whose checkpoint is not there is said."""
    kept = set()
    for k, step in enumerate(steps, start=1):
        found = [one for one in (folder, before or folder) if (one / f"checkpoint-{step}" / WHOLE).is_file()]
        if not found:
            log.warning("there is no ckpt%d: no whole checkpoint-%d in %s", k, step, before or folder)
            continue
        kept.add(f"ckpt{k}")
        _link(folder / f"ckpt{k}", found[0] / f"checkpoint-{step}")
    for one in folder.iterdir():
        if re.fullmatch(r"ckpt\d+", one.name) and one.is_symlink() and one.name not in kept:
            one.unlink()


def _link(link: Path, target: Path) -> None:
    """The name changes its target at once: it is never missing."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target.resolve(), link.parent.resolve()), target_is_directory=True)
    temporary.replace(link)
