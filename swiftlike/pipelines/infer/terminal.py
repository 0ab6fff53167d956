"""The line editor: history and keys by readline, pasted text as one entry, several lines on request."""

from __future__ import annotations

import importlib
from collections.abc import Callable

END = "#"  # ends an entry of several lines
PROMPT, QUESTION, MORE = "<<< ", "question <<< ", "... "


class Terminal:
    """Reads what is typed. EOFError at the end of the input, KeyboardInterrupt when the user breaks a line off."""

    def __init__(self, read: Callable[[str], str] = input) -> None:
        self._read = read
        self.several = False  # lines make one entry

    def edit(self) -> None:
        """Turn keys and history on where Python has readline; pasted lines stay together where that can."""
        try:
            readline = importlib.import_module("readline")
        except ImportError:  # a Python without it: lines can be typed all the same
            return
        if "libedit" not in (readline.__doc__ or ""):
            readline.parse_and_bind("set enable-bracketed-paste on")

    def line(self, prompt: str) -> str:
        """One line."""
        return self._read(prompt)

    def entry(self, prompt: str = PROMPT) -> str:
        """One entry: a line (or what was pasted), or all lines up to one that ends with `#`."""
        if not self.several:
            return self._read(prompt)
        lines = [self._read("[several lines] " + prompt)]
        while not lines[-1].rstrip().endswith(END):
            if len(lines) == 1 and word_of(lines[0]) is not None:
                return lines[0]
            lines.append(self._read(MORE))
        return "\n".join(lines).rstrip().removesuffix(END).rstrip()


WORDS = ("exit", "quit", "clear", "reset-system", "multi-line", "single-line", "help")
HELP = """\
  exit, quit or Ctrl-D     leave
  clear                    forget the conversation
  reset-system: TEXT       forget, and another system prompt (none: as at the start)
  multi-line, single-line  an entry ends with #, or is a line; pasted lines stay one
  <image>PATH</image>      a picture, file or URL; or drag the file into the terminal
  Ctrl-C                   stop the answer"""


def word_of(text: str) -> tuple[str, str] | None:
    """(word, rest) of an entry that steers; None for a question. Only `reset-system` has a rest."""
    plain = text.strip()
    low = plain.lower()
    if low in WORDS:
        return low, ""
    if low.startswith("reset-system:"):
        return "reset-system", plain.partition(":")[2].strip()
    return None
