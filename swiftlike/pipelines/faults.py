"""Training, and what is said when it does not come to its end."""

from __future__ import annotations

import contextlib
import errno
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from swiftlike.core.errors import UserError
from swiftlike.core.files import whole_checkpoints
from swiftlike.core.log import get_logger, is_main, world_size
from swiftlike.core.merge import DEFAULT, Run
from swiftlike.pipelines.folders import leave_nothing
from swiftlike.trainers.stopping import CODE, Terminated

log = get_logger(__name__)
# What torch says of memory: of the computer's, and of a GPU's where a library allocates it.
_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|Cannot allocate memory|std::bad_alloc|out of memory|_ALLOC_FAILED"
)
_WORKER = re.compile(r"DataLoader worker .*(killed|exited|terminated)")
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


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


@contextlib.contextmanager
def explained(run: Run, folder: Path) -> Iterator[None]:
    """Failures of the machine become UserErrors with what to do; no run folder is left in which nothing was trained."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        known = _known(error, run, folder)
        leave_nothing(folder)
        if known is None:
            raise
        raise known from error
    except BaseException:
        leave_nothing(folder)
        raise


def _known(error: Exception, run: Run, folder: Path) -> UserError | None:
    said = str(error).strip() or type(error).__name__
    first = said.splitlines()[0]
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or getattr(error, "errno", 0) == errno.ENOMEM
    if memory or (isinstance(error, RuntimeError) and _MEMORY.search(said)):
        return UserError(f"out of memory: {first}", problems=smaller(run), hint=_last(folder))
    if isinstance(error, OSError) and error.errno in _DISK:
        return UserError(f"cannot write: {error}", hint=_last(folder))
    if isinstance(error, RuntimeError) and _WORKER.search(said):
        return UserError(
            f"a process that loads data has died: {first}",
            hint="often the system ends it because memory is short: lower --dataloader_num_workers (0: none). "
            + _last(folder),
        )
    return None


def smaller(run: Run) -> list[str]:
    """What makes a step of this run need less memory, what costs least first."""
    train, data, tuner = run.train, run.data, run.tuner
    half, passes = train.batch_size // 2, (train.gradient_accumulation_steps or 1) * 2
    far = not (train.deepspeed or train.fsdp)
    offers = {
        "--gradient_checkpointing true --checkpointing_every_n_layers 1": not train.gradient_checkpointing
        or train.checkpointing_every_n_layers > 1,
        f"--batch_size {half} --gradient_accumulation_steps {passes}: the same steps in smaller parts": half > 0,
        f"--max_length below {data.max_length}: fewer tokens in the longest row": True,
        "--layout auto: a prompt is computed once for all its completions": train.layout == "split",
        f"--logprob_chunk {train.logprob_chunk // 4}: fewer logits at a time": train.logprob_chunk >= 64,
        "--quant_bits 4: the base in 4 bits": tuner.sft_type == "lora" and not run.model.quant_bits and _gpu(),
        "--sft_type lora: adapters instead of all weights": tuner.sft_type == "full",
        "--fsdp fsdp2 or --deepspeed zero3: the model spread over the devices": world_size() > 1 and far and _gpu(),
    }
    return [offer for offer, fits in offers.items() if fits]


def _gpu() -> bool:
    return torch.cuda.is_available()


def _last(folder: Path) -> str:
    found = whole_checkpoints(folder)
    if not found:
        return "there is no whole checkpoint of this run yet; --dry_run estimates the memory of each part"
    return f"the newest whole checkpoint is {found[-1]}: go on from it with --resume_from_checkpoint"
