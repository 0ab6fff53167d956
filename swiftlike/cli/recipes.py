"""`swiftlike iterate`: the pipeline gets what only the command line knows, which stages there are and their flags."""

from __future__ import annotations

import dataclasses as dc
import os
from collections.abc import Sequence
from typing import Any

from swiftlike.cli.commands import COMMANDS, load
from swiftlike.cli.layers import build_run
from swiftlike.core.dotted import resolve
from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run


def run(run: Run) -> int:
    """Run a recipe."""
    kinds = {name: stage for name in COMMANDS if (stage := load(name).stage) is not None}
    code: int = resolve("swiftlike.pipelines.iterate.command:run")(run, kinds, problems_of)
    return code


def problems_of(words: Sequence[str]) -> list[str]:
    """What is wrong with the words of a command. What depends on files is left to the command: they may not be there
    yet."""
    command: Any = dc.replace(load(words[0]), check=None)
    try:
        build_run(command, list(words[1:]), os.environ)
    except UserError as error:
        return [*error.problems] or [error.message]
    return []
