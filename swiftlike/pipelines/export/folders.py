"""Model folders: written under another name first, and without what only training needs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import swiftlike
from swiftlike.core.errors import UserError
from swiftlike.core.files import ARGS, RECORDS, read_args, read_document, write_json
from swiftlike.core.merge import DEFAULT, Run
from swiftlike.models.published import rename_folder

RECORD = "export.json"  # says that an export wrote the folder, and what from
KEPT = ("model_type", "template", "add_sep_token", "system")  # flags that `--model FOLDER` takes from its args.json
WEIGHTS = re.compile(r"model.*\.safetensors(\.index\.json)?|pytorch_model.*\.bin(\.index\.json)?")
_TRAINING = re.compile(
    r"optimizer.*|scheduler\.pt|scaler\.pt|rng_state.*|trainer_state\.json|training_args\.(bin|json)|objective_\d+\.pt|"
    r"swiftlike\.json|global_step\d+|latest|zero_to_fp32\.py|pytorch_model_fsdp_.*|infer_result|\..*|.*\.py"
)


@contextlib.contextmanager
def new_folder(target: Path, *, replace: bool) -> Iterator[Path]:
    """A folder that appears under its name only when it is complete and on disk.

    UserError when there is something already; `replace` allows for a folder that an export wrote.
    """
    _refuse(target, replace)
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    draft.mkdir()
    try:
        yield draft
        for file in draft.rglob("*"):
            _settle(file)
        _refuse(target, replace)
        _move(draft, target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _refuse(target: Path, replace: bool) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not replace:
        raise UserError(f"{target} exists already", hint="name another --output_dir, or replace it: --exist_ok true")
    if not (target / RECORD).is_file():
        raise UserError(
            f"{target} was not written by an export (it has no {RECORD}): it is not replaced",
            hint="name another --output_dir, or remove it yourself",
        )


def _move(draft: Path, target: Path) -> None:
    old = draft.with_name(draft.name + ".old")
    if target.exists():
        target.replace(old)
    draft.replace(target)
    _to_disk(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sweep(target: Path) -> None:
    """Remove what killed exports to the same folder left."""
    name = re.compile(rf"\.{re.escape(target.name)}\.(\d+)")
    for left in target.parent.iterdir():
        if (found := name.fullmatch(left.name)) and not _runs(int(found[1])):
            shutil.rmtree(left, ignore_errors=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return pid != os.getpid()


def _settle(path: Path) -> None:
    """On disk, and as readable as other new files (safetensors' are only for their owner)."""
    if path.is_file():
        mask = os.umask(0)
        os.umask(mask)
        path.chmod(0o666 & ~mask)
    _to_disk(path)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -- what is in them --------------------------------------------------------------------------------------------------


def copy_clean(source: Path, draft: Path, *, weights: bool = True) -> None:
    """A checkpoint's files without those of the optimiser, with the weight names of published checkpoints."""
    for path in sorted(source.iterdir()):
        if _TRAINING.fullmatch(path.name) or path.name in RECORDS or path.is_dir() or (draft / path.name).exists():
            continue
        if weights or not WEIGHTS.fullmatch(path.name):
            shutil.copyfile(path, draft / path.name)
    if weights and (draft / "config.json").is_file():
        rename_folder(draft)


def keep_args(source: Path | None, draft: Path, run: Run) -> None:
    """args.json for the new folder: the checkpoint's own, so that template and system prompt stay, and what was said
    otherwise this time."""
    found = read_args(source) if source is not None else None
    told = {name: getattr(run.model, name) for name in KEPT if run.origin.get(name, DEFAULT) != DEFAULT}
    path, args = found or (None, {})
    document = read_document(path) if path is not None and path.name == ARGS else {}
    if not found and not told:
        return
    record = {
        "format": document.get("format", 1),
        "swiftlike": document.get("swiftlike", swiftlike.__version__),
        "command": document.get("command", run.command),
        "args": args | told,
        "origin": {name: where for name, where in document.get("origin", {}).items() if name in args},
    }
    write_json(draft / ARGS, record)


def copy_args(source: Path, draft: Path) -> None:
    """A checkpoint's args.json (ms-swift's too) as it is."""
    for name in RECORDS:
        if (source / name).is_file():
            shutil.copyfile(source / name, draft / name)


def leave_record(draft: Path, **facts: Any) -> None:
    """What the folder was made from."""
    write_json(draft / RECORD, {"swiftlike": swiftlike.__version__, **facts})


def adapter_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json of an adapter folder."""
    return json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
