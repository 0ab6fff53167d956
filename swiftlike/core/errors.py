"""Errors that a user can mend: shown without a traceback, exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from swiftlike.core.secrets import scrub


class UserError(Exception):
    """Something in the user's input is wrong. `hint` says how to mend it; `problems` lists several at once."""

    def __init__(self, message: str, hint: str = "", problems: Iterable[str] = ()) -> None:
        self.message, self.hint, self.problems = message, hint, tuple(problems)
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.message, *(f"  - {problem}" for problem in self.problems)]
        if self.hint:
            lines.append(f"  {self.hint}")
        return scrub("\n".join(lines))


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'simpo'?` for the nearest known word, or nothing when none is near."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
