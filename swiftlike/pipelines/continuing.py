"""What a run that goes on is held to: whole files, and the settings, the data and the code that the checkpoint had."""

from __future__ import annotations

import dataclasses as dc
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import swiftlike
from swiftlike.core.checksums import instead_of, refuse_damaged
from swiftlike.core.errors import UserError
from swiftlike.core.files import WHOLE, has_optimiser, read_args
from swiftlike.core.log import get_logger, is_main, local_rank, world_size
from swiftlike.core.merge import Run
from swiftlike.pipelines.prepare import digest
from swiftlike.pipelines.rows import Data
from swiftlike.pipelines.settings import total_steps

log = get_logger(__name__)
MAY_CHANGE = {
    "device_map",
    "max_memory",
    "attn_impl",
    "use_hf",
    "model_kwargs",
    "trust_remote_code",
    "model_revision",
    "use_safetensors",
}
# What decides which weights there are: others cannot be continued from, whoever asks.
SHAPE = {
    "model",
    "model_type",
    "rlhf_type",
    "sft_type",
    "lora_rank",
    "lora_target_modules",
    "lora_target_regex",
    "lora_bias",
    "modules_to_save",
    "use_dora",
}
LEARNING = {
    "learning_rate",
    "lr_scheduler_type",
    "weight_decay",
    "optim",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "seed",
}


def resume_folder(run: Run) -> str | None:
    """The checkpoint that training continues from, None for a fresh start or for its weights alone."""
    return None if run.train.resume_only_model else run.train.resume_from_checkpoint


def check_files(run: Run) -> None:
    """UserError when the checkpoint that is named is unfinished or damaged; one process of a machine reads it all."""
    if run.train.resume_from_checkpoint is None or local_rank():
        return
    folder = Path(run.train.resume_from_checkpoint)
    if resume_folder(run) is not None and not (folder / WHOLE).is_file():
        raise UserError(
            f"{folder} is not a whole checkpoint: it has no {WHOLE}, so it is unfinished or not written by swiftlike",
            hint=f"{instead_of(folder)}; or start from its weights alone: --resume_only_model true",
        )
    refuse_damaged(folder)
    if resume_folder(run) is not None and not has_optimiser(folder):
        raise UserError(
            f"{folder} holds weights only (--save_only_model): training cannot go on exactly",
            hint="start anew from its weights: --resume_only_model true",
        )


def made_of(run: Run, data: Data) -> dict[str, Any]:
    """What a checkpoint remembers: of the data rows, and what decides their order; and the code."""
    step = run.train.batch_size * run.train.gradient_accumulation_steps * world_size()
    plugins = {Path(name).name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in run.train.plugin}
    return {
        "data": digest(data.train, run.data.dataset_seed, step),
        "swiftlike": swiftlike.__version__,
        "plugins": plugins,
    }


def nothing_left(run: Run, data: Data, spaced: Sequence[int]) -> bool:
    """Whether the checkpoint is the end of its run already. UserError when it belongs to another run."""
    from swiftlike.trainers.checkpoint import steps_done
    from swiftlike.trainers.spaced import name_checkpoints

    folder = Path(run.train.resume_from_checkpoint)
    check_same(run, folder, made_of(run, data))
    if steps_done(folder) < total_steps(run, len(data.train)):
        return False
    if spaced and is_main():
        name_checkpoints(folder.parent, spaced)
    log.info("%s is the end of its run: nothing is left to train", folder)
    return True


def check_same(run: Run, folder: Path, now: dict[str, Any]) -> None:
    """Refuse to continue with other settings that decide what is learnt, on other data or with other code, unless
    --resume_anyway says so."""
    then = json.loads((folder / WHOLE).read_bytes())
    settings = _settings(run, folder)
    changed = [*settings.values()]
    if then["data"] != now["data"]:
        changed.append("it was trained on other data (or another template, order or length limit) than this run has")
    changed += _code(then, now)
    if not changed:
        return
    if run.train.resume_anyway and not SHAPE & settings.keys():
        for one in changed:
            log.warning("--resume_anyway: %s", one)
        return
    anyway = "" if SHAPE & settings.keys() else "; --resume_anyway true goes on all the same, as a run of its own kind"
    raise UserError(
        f"{folder} cannot be continued by this run:",
        hint=f"leave out what differs, or start anew from its weights: --resume_only_model true{anyway}",
        problems=changed,
    )


def _settings(run: Run, folder: Path) -> dict[str, str]:
    """What differs, by the flag's name."""
    found = read_args(folder)
    saved, now = (found[1] if found else {}), run.flags()
    sections = (run.model, run.tuner, run.loss, *([run.rlhf] if "rlhf" in run.sections else []))
    fixed = {field.name for one in sections for field in dc.fields(one)} - MAY_CHANGE | LEARNING
    return {
        name: f"--{name}: {saved[name]} in the checkpoint, now {now[name]}"
        for name in sorted(fixed & saved.keys() & now.keys())
        if saved[name] != now[name]
    }


def _code(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Differences of code; older checkpoints do not say what theirs was."""
    changed = []
    if then.get("swiftlike", now["swiftlike"]) != now["swiftlike"]:
        changed.append(f"swiftlike {then['swiftlike']} wrote it, this is {now['swiftlike']}")
    before, after = then.get("plugins", now["plugins"]), now["plugins"]
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            changed.append(f"--plugin {name}: in the checkpoint, not in this run")
        elif name not in before:
            changed.append(f"--plugin {name}: in this run, not in the checkpoint")
        elif before[name] != after[name]:
            changed.append(f"--plugin {name}: its content has changed since the checkpoint was written")
    return changed
