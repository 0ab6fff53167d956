"""Which steps are to be run, and why."""

from __future__ import annotations

import dataclasses as dc
import difflib
import json
from collections.abc import Sequence

from swiftlike.core.errors import UserError
from swiftlike.pipelines.iterate import state
from swiftlike.pipelines.iterate.recipe import Recipe, Step

RUN, RESUME, SKIP, LEAVE = "run", "go on", "done", "left as it is"


@dc.dataclass(frozen=True, kw_only=True)
class Choice:
    """The steps that are considered, and whether they are run although they are done."""

    from_stage: str | None = None
    only: Sequence[str] = ()
    force: bool = False


@dc.dataclass(frozen=True)
class Planned:
    """What happens to a step: one of RUN, RESUME, SKIP, LEAVE, and the reason."""

    step: Step
    action: str
    why: str

    @property
    def works(self) -> bool:
        """Whether something is computed."""
        return self.action in (RUN, RESUME)


def considered(recipe: Recipe, choice: Choice) -> set[str]:
    """Names of the steps that may be run. UserError for a name that none has."""
    for word in (*choice.only, *filter(None, [choice.from_stage])):
        if not any(matches(step, word) for step in recipe.steps):
            names = [*dict.fromkeys(name for step in recipe.steps for name in (step.key, step.name, step.round))]
            close = difflib.get_close_matches(word, names, n=1)
            raise UserError(
                f"{recipe.path} has no stage {word!r}" + (f"; did you mean {close[0]!r}?" if close else ""),
                hint=f"it has {', '.join(step.name for step in recipe.steps)}",
            )
    if choice.only:
        return {step.name for step in recipe.steps if any(matches(step, word) for word in choice.only)}
    first = 0
    if choice.from_stage:
        first = next(i for i, step in enumerate(recipe.steps) if matches(step, choice.from_stage))
    return {step.name for step in recipe.steps[first:]}


def matches(step: Step, word: str) -> bool:
    """`dpo` is that stage in every round, `iter1/dpo` in one, `iter1` is a round."""
    return word in (step.key, step.name) or step.name.startswith(f"{word}/")


def look_ahead(recipe: Recipe, choice: Choice) -> list[Planned]:
    """What a run would do, as far as it can be known beforehand."""
    allowed = considered(recipe, choice)
    found: list[Planned] = []
    works: set[str] = set()
    for step in recipe.steps:
        before = next((name for name in step.inputs if name in works), None)
        planned = decide(recipe, step, allowed, choice.force)
        if planned.action == SKIP and before:
            planned = Planned(step, RUN, f"after {before}")
        if planned.works:
            works.add(step.name)
        found.append(planned)
    return found


def decide(recipe: Recipe, step: Step, allowed: set[str], force: bool) -> Planned:
    """What happens to a step now that those before it are done."""
    mark = state.read_mark(recipe.root, step)
    if step.name not in allowed:
        return Planned(step, LEAVE, "" if mark is not None and mark.state == state.DONE else "not done")
    if mark is None:
        return Planned(step, RUN, "not begun")
    parts = state.parts_of(recipe, step)
    if force:
        return Planned(step, RUN, "--force")
    if mark.identity != state.identity_of(parts):
        return Planned(step, RUN, changed(mark.parts, parts))
    if mark.state != state.DONE:
        return Planned(step, RESUME, "was stopped" if mark.state == state.RUNNING else "failed before")
    if not step.output.exists():
        return Planned(step, RUN, "its output is gone")
    return Planned(step, SKIP, "")


def changed(before: dict[str, str], now: dict[str, str]) -> str:
    """What of a stage is not as it was."""
    reasons = []
    for part in sorted({*before, *now}):
        if before.get(part) == now.get(part):
            continue
        reasons.append(_words(before, now) if part == "words" else f"{part} changed")
    return "; ".join(reasons)


def _words(before: dict[str, str], now: dict[str, str]) -> str:
    old, new = (_flags(json.loads(parts.get("words", "[]"))) for parts in (before, now))
    names = [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]
    return ", ".join(f"{name} {old.get(name) or 'not given'} -> {new.get(name) or 'not given'}" for name in names)


def _flags(words: Sequence[str]) -> dict[str, str]:
    """Flag to its values, in one text."""
    found: dict[str, list[str]] = {}
    name = "command"
    for word in words:
        if word.startswith("--"):
            name = word
            found[name] = []
        else:
            found.setdefault(name, []).append(word)
    return {name: " ".join(values) for name, values in found.items()}
