"""`swiftlike export`: what is written, where, and whether it is uploaded."""

from __future__ import annotations

import functools
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from swiftlike.args.export import changes_weights
from swiftlike.core.files import named_folders, newest_checkpoint
from swiftlike.core.merge import Run
from swiftlike.pipelines.export import layouts
from swiftlike.pipelines.export.folders import copy_clean, keep_args, leave_record, new_folder
from swiftlike.pipelines.export.hub import push
from swiftlike.pipelines.export.merge import write_model
from swiftlike.pipelines.export.quantise import quantise
from swiftlike.pipelines.serving import Opened, open_model, whole_checkpoint

Write = Callable[[Path], None]  # fills a folder


def run(run: Run) -> Path | None:
    """Write, and upload when that is asked for. Gives the folder, None when it was only uploaded."""
    write, source, suffix = _job(run)
    target = Path(run.export.output_dir).expanduser() if run.export.output_dir else None
    if target is None and suffix:
        target = source.with_name(source.name + suffix) if source.exists() else Path(source.name + suffix)
    if target is None:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            push(run, Path(folder), source.name)
        return None
    target = target.absolute()
    with new_folder(target, replace=run.export.exist_ok) as draft:
        write(draft)
    sys.stdout.write(f"written: {target}\n")
    if run.hub.push_to_hub:
        push(run, target, target.name)
    return target


def _job(run: Run) -> tuple[Write, Path, str]:
    """What fills the folder, what it is made from, and what its name gets; no suffix for a mere copy."""
    if run.export.to_peft_format or run.export.to_swift_format:
        source = _layout_folder(run)
        write = layouts.to_peft if run.export.to_peft_format else layouts.to_swift
        return functools.partial(write, source), source, "-peft" if run.export.to_peft_format else "-swift"
    copied = None if run.use.merge_lora or _fewer_bits(run) or changes_weights(run) else _local(run)
    if copied is not None:
        return functools.partial(_copy, run, copied), copied, ""
    opened = open_model(run)
    source = next(iter(opened.adapters.values()), opened.model_folder)
    merged = bool(opened.adapters)
    anew = merged or changes_weights(run)
    write = functools.partial(write_model, run, opened) if anew else functools.partial(_copy, run, opened.model_folder)
    if not _fewer_bits(run):
        return write, source, "-merged" if merged else ""
    whole = None if anew else opened.model_folder
    return functools.partial(_quantised, run, opened, whole, write), source, _fewer_bits(run)


def _fewer_bits(run: Run) -> str:
    if run.quant.to_gguf:
        return "-gguf"
    return f"-{run.model.quant_method}-int{run.model.quant_bits}" if run.model.quant_bits else ""


def _local(run: Run) -> Path | None:
    """The folder on this machine that is copied as it is; None for a model that is yet to be fetched."""
    if run.use.ckpt_dir:
        return whole_checkpoint(run.use.ckpt_dir)
    if run.use.adapters:
        return whole_checkpoint(named_folders(run.use.adapters)[0][1])
    folder = Path(run.model.model).expanduser()
    return folder if run.model.model and folder.is_dir() else None


def _layout_folder(run: Run) -> Path:
    """The adapter's folder; of a run folder its newest checkpoint."""
    folder = Path(run.use.ckpt_dir or named_folders(run.use.adapters)[0][1]).expanduser().absolute()
    return (newest_checkpoint(folder) if folder.is_dir() else None) or folder


def _copy(run: Run, source: Path, draft: Path) -> None:
    copy_clean(source, draft)
    keep_args(source, draft, run)
    leave_record(draft, copied=str(source))


def _quantised(run: Run, opened: Opened, whole: Path | None, write: Write, draft: Path) -> None:
    """Quantise the folder `whole`, or what is written first."""
    inner = draft / "unquantised"
    if whole is None:
        inner.mkdir()
        write(inner)
    quantise(run, opened, whole or inner, draft)
    shutil.rmtree(inner, ignore_errors=True)
