"""What can be said of a recipe before its first stage: wrong flags, missing files, and the commands to come."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from swiftlike.core.errors import UserError
from swiftlike.core.optional import available
from swiftlike.core.secrets import apart
from swiftlike.pipelines.iterate import plan, state
from swiftlike.pipelines.iterate.jobs import jobs_of
from swiftlike.pipelines.iterate.machine import Machine
from swiftlike.pipelines.iterate.recipe import PROGRAM, Recipe

Check = Callable[[Sequence[str]], list[str]]
_FILE = re.compile(r"(?:[\w.:-]+=)?([^#=:\s]+\.(?:jsonl?|csv|tsv|parquet|arrow|py)(?:\.gz)?)(?:[#:].*)?")
_TEXTS = ("--regex", "--judge_pattern", "--system", "--stop")  # their values are no files, whatever they look like
_NEEDS = {("--scorer", "pairrm"): "llm_blender", ("--infer_backend", "vllm"): "vllm"}


def checked(recipe: Recipe, check: Check) -> None:
    """UserError for flags of stages that are wrong: before the first of them has cost anything."""
    problems: dict[str, list[str]] = {}
    for step in recipe.steps:
        if step.kind != PROGRAM:
            for problem in check(step.words):
                problems.setdefault(f"{step.key}: {problem.replace('command line: ', '')}", []).append(step.name)
    if problems:
        raise UserError(f"{recipe.path}: stages have flags that are wrong", problems=list(problems))


def outside(recipe: Recipe) -> list[str]:
    """Files that no stage writes and that are not there, and packages that are not installed."""
    problems: dict[str, None] = {}
    for step in recipe.steps:
        flag = ""
        for word in step.words if step.kind != PROGRAM else ():
            if word.startswith("--"):
                flag = word
                continue
            found = _FILE.fullmatch(word) if flag not in _TEXTS else None
            if found and not state.of_stages(recipe, Path(found[1]).resolve()) and not Path(found[1]).exists():
                problems[f"stage {step.key}: {flag}: there is no {found[1]}"] = None
            package = _NEEDS.get((flag, word))
            if package and not available(package):
                problems[f"stage {step.key}: {flag} {word} needs the package {package}"] = None
    return list(problems)


def script(planned: Sequence[plan.Planned], shards: int) -> str:
    """The commands, as a user would type them, each below what would happen to it."""
    lines = []
    for one in planned:
        lines.append(f"# {one.step.name} ({one.action}{f': {one.why}' if one.why else ''})")
        env = {} if one.step.processes is None else {"NPROC_PER_NODE": str(one.step.processes)}
        for job in jobs_of(one.step, one.step.words, env, shards, Machine()):
            words = job.words if one.step.kind == PROGRAM else ("swiftlike", *apart(job.words)[0])
            lines.append(" ".join([*(f"{name}={value}" for name, value in job.env.items()), shlex.join(words)]))
        lines.append("")
    return "\n".join(lines)
