"""What the tests of whole pipelines share: running one, its table, its commands, and whether anything was touched."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swiftlike.cli.commands import COMMANDS
from swiftlike.cli.commands import load as command
from swiftlike.cli.recipes import problems_of
from swiftlike.pipelines.iterate.reading import BUILT_IN
from swiftlike.pipelines.iterate.recipe import load
from tests.e2e.conftest import Installed, Result

LONG = 2400.0  # seconds that a pipeline may take


def iterate(swiftlike: Installed, *words: str) -> Result:
    """`swiftlike iterate ...` to its end, without the network."""
    argv = [str(swiftlike.path), "iterate", *words]
    done = subprocess.run(
        argv, env=swiftlike.env, cwd=swiftlike.folder, capture_output=True, text=True, timeout=LONG, check=False
    )
    assert not swiftlike.reached, swiftlike.reached
    return Result(done.returncode, done.stdout, done.stderr)


def table(root: Path) -> dict[str, dict[str, Any]]:
    """The rows of the final report."""
    assert (root / "report" / "plot.png").read_bytes().startswith(b"\x89PNG")
    return {row["name"]: row for row in json.loads((root / "report" / "table.json").read_text(encoding="utf-8"))}


def times(root: Path) -> dict[Path, int]:
    """When each file was written last."""
    return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file() and path.name != ".lock"}


def states(swiftlike: Installed, *words: str) -> list[str]:
    """The state of every stage."""
    return [line.split()[1] for line in iterate(swiftlike, "status", *words).out.splitlines()[2:]]


def commands(name: str, *overrides: str) -> dict[str, Sequence[str]]:
    """Step -> its words, of a recipe that is shipped; all of its flags must exist."""
    kinds = {one: stage for one in COMMANDS if (stage := command(one).stage) is not None}
    recipe = load(BUILT_IN / f"{name}.yaml", overrides, kinds)
    assert {step.name: found for step in recipe.steps if (found := problems_of(step.words))} == {}
    return {step.name: step.words for step in recipe.steps}


def value(words: Sequence[str], flag: str) -> str | None:
    """What a flag is given, None when it is not."""
    return words[words.index(f"--{flag}") + 1] if f"--{flag}" in words else None
