"""Scores of a rule: a Python function, a regular expression, or a right answer."""

from __future__ import annotations

import dataclasses as dc
import importlib
import importlib.util
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run
from swiftlike.datasets_registry.card import BadRow
from swiftlike.pipelines.judges.card import Done, Group, ScorerCard

Rule = Callable[[str, str, Mapping[str, Any]], Any]  # (prompt, answer, record) -> number, truth, or None
_MARKED = "####"  # GSM8K writes the result of a solution behind it
_NUMBER = re.compile(r"[$€£]?\s*([-+]?[\d,]*\.?\d+)\s*%?")


@dc.dataclass(frozen=True)
class RuleScorer:
    """Every answer by itself."""

    rule: Rule

    def score(self, groups: Sequence[Group], done: Done) -> None:
        """A group is an error when the rule fails on one of its answers."""
        for g, group in enumerate(groups):
            try:
                done(g, [_number(self.rule(group.prompt, answer, group.record)) for answer in group.answers])
            except BadRow as error:
                done(g, str(error))

    def close(self) -> None:
        """Nothing is held."""


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, bool | int | float) or not math.isfinite(value):
        raise BadRow("not a score", f"the rule gave {value!r}")
    return float(value)


def matches(pattern: str) -> Rule:
    """1 where the pattern is found."""
    compiled = _compiled(pattern)
    return lambda prompt, answer, record: compiled.search(answer) is not None


def equals(column: str, pattern: str | None = None) -> Rule:
    """1 where the answer is that of the column. With a pattern its last match is the answer (0 without any)."""
    compiled = _compiled(pattern) if pattern is not None else None

    def rule(prompt: str, answer: str, record: Mapping[str, Any]) -> bool:
        if record.get(column) is None:
            raise BadRow("no right answer", f"no column {column!r}; its columns are {', '.join(map(str, record))}")
        if compiled is not None:
            found = list(compiled.finditer(answer))
            if not found:
                return False
            answer = found[-1][1 if compiled.groups else 0] or ""
        return normal(answer) == normal(str(record[column]))

    return rule


def normal(text: str) -> str:
    """An answer without what does not matter: case, white space, a full stop at the end, the way a number is written,
    and the solution before GSM8K's `####`."""
    text = " ".join(text.rpartition(_MARKED)[2].casefold().split()).rstrip(" .")
    number = _NUMBER.fullmatch(text)
    if number is None:
        return text
    try:
        value = Decimal(number[1].replace(",", ""))
    except InvalidOperation:
        return text
    return f"{value.normalize() + 0:f}"


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.MULTILINE)
    except re.error as error:
        raise UserError(f"--regex {pattern!r}: {error}") from error


def from_python(path: str) -> Rule:
    """`file.py:function` or `package.module:function`. What it raises becomes the error of the row."""
    place, _, name = path.rpartition(":")
    if not place:
        raise UserError(f"--rule {path}: write file.py:function or module:function")
    function = getattr(_module(place, path), name, None)
    if not callable(function):
        raise UserError(f"--rule {path}: {place} has no function {name}")

    def rule(prompt: str, answer: str, record: Mapping[str, Any]) -> Any:
        try:
            return function(prompt, answer, record)
        except Exception as error:
            raise BadRow("the rule failed", f"{type(error).__name__}: {error}") from error

    return rule


def _module(place: str, path: str) -> Any:
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        file = Path(place).expanduser().resolve()
        spec = importlib.util.spec_from_file_location(f"swiftlike_rule_{file.stem}", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # annotations that are text are looked up there
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file raises is shown as theirs
        raise UserError(f"--rule {path}: {type(error).__name__}: {error}") from error
    return module


def _open(run: Run) -> RuleScorer:
    args = run.rule
    if args.rule is not None:
        return RuleScorer(from_python(args.rule))
    return RuleScorer(matches(args.regex) if args.exact_answer is None else equals(args.exact_answer, args.regex))


CARD = ScorerCard(name="rule", help="a Python function, a regular expression, or a right answer", open=_open)
