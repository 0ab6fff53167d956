"""What an evaluation leaves behind: a JSON file, and a short table on standard output."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.core.files import atomic
from swiftlike.core.log import get_logger
from swiftlike.core.merge import Run
from swiftlike.pipelines.serving import Opened

log = get_logger(__name__)
Values = dict[str, Any]


def folder_of(run: Run) -> Path:
    """`--output_dir`. UserError when it cannot be made."""
    folder = Path(run.eval.output_dir).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir {folder}: {error.strerror}") from error
    return folder


def publish(run: Run, values: Values, table: Sequence[str] | None = None, name: str = "") -> Path:
    """Write `OUTPUT_DIR/<name>.json` (by default called after the evaluation) and print the table, by default all
    numbers under their names."""
    path = folder_of(run) / f"{name or run.eval.eval_type}.json"
    with atomic(path) as file:
        file.write(json.dumps(_plain({"eval_type": run.eval.eval_type, **values}), ensure_ascii=False, indent=2) + "\n")
    sys.stdout.write("\n".join([*(lines(values) if table is None else table), ""]))
    sys.stdout.flush()
    log.info("results: %s", path)
    return path


def lines(values: Mapping[str, Any]) -> list[str]:
    """`name value` of every entry that has something to say, aligned."""
    shown = {name: _cell(value) for name, value in values.items() if value not in (None, {}, [], "")}
    width = max(map(len, shown), default=0)
    return [f"{name:<{width}}  {cell}" for name, cell in shown.items()]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_cell(one)}" for name, one in value.items())
    return ", ".join(map(_cell, value)) if isinstance(value, list | tuple) else str(value)


def _plain(value: Any) -> Any:
    """JSON has no numbers that are not finite."""
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def model_facts(opened: Opened) -> Values:
    """Which weights were measured."""
    facts: Values = {"model": str(opened.model_folder)}
    return facts | ({"adapters": [str(one) for one in opened.adapters.values()]} if opened.adapters else {})
