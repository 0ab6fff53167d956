"""The words of a command line -> (flag, raw value) pairs, in ms-swift's habits.

`-` is `_` in names, `--flag=value` works, a lone boolean flag is true, a list flag takes every word up to the next
flag. Nothing is judged here: unknown flags come out too, for `merge` to explain.
"""

from __future__ import annotations

import dataclasses as dc
from typing import Any

from swiftlike.core.coerce import FALSE, TRUE, is_none
from swiftlike.core.flags import Flags, is_bool, is_list
from swiftlike.core.merge import COMMAND_LINE, Given

CONFIG, SHOW_CONFIG = "config", "show_config"
_OWN = {CONFIG: list[str], SHOW_CONFIG: bool}
_FILES = (".yaml", ".yml", ".json")


@dc.dataclass
class Words:
    """What a command line says, in its own words."""

    given: list[Given] = dc.field(default_factory=list)
    config: list[str] = dc.field(default_factory=list)
    show_config: bool = False
    problems: list[str] = dc.field(default_factory=list)


def is_flag(word: str) -> bool:
    """Whether a word names a flag; -1 and -1e-5 are values."""
    return word.startswith("--")


def normalise(argv: list[str], flags: Flags) -> Words:
    """Read the words after the command's name."""
    found, lists = Words(), {}
    stray: list[str] = []
    at = 0
    while at < len(argv):
        if not is_flag(argv[at]):
            stray.append(argv[at])
            at += 1
            continue
        head, equals, value = argv[at][2:].partition("=")
        name, at = head.replace("-", "_"), at + 1
        kind = _OWN.get(name) or flags.kind_of(name)
        words = [value] if equals else argv[at : at + _taken(kind, argv[at:], flags.command.positional)]
        at += 0 if equals else len(words)
        if not words and not is_bool(kind) and kind is not None:
            found.problems.append(f"{COMMAND_LINE}: --{name} needs a value")
        elif is_list(kind):
            lists.setdefault(name, []).extend(words)
        else:
            found.given.append(Given(name, _raw(words), COMMAND_LINE))
    _place(stray, lists, flags, found)
    found.given += [Given(name, words, COMMAND_LINE) for name, words in lists.items() if name != CONFIG]
    found.config = lists.get(CONFIG, []) + found.config
    found.show_config = any(given.flag == SHOW_CONFIG and given.raw == "true" for given in found.given)
    found.given = [given for given in found.given if given.flag != SHOW_CONFIG]
    return found


def _taken(kind: Any, rest: list[str], positional: str | None) -> int:
    """How many of the next words belong to a flag of this type."""
    until = next((at for at, word in enumerate(rest) if is_flag(word)), len(rest))
    if kind is None or is_list(kind):
        return until
    if is_bool(kind) and until and positional is not None:
        return int(rest[0].lower() in TRUE + FALSE or is_none(rest[0]))
    return min(1, until)


def _raw(words: list[str]) -> Any:
    if not words:
        return "true"
    return words[0] if len(words) == 1 else words


def _place(stray: list[str], lists: dict[str, list[str]], flags: Flags, found: Words) -> None:
    """Words that no flag took: configuration files, the command's positional list, or a mistake."""
    positional = flags.command.positional
    for word in stray:
        if flags.command.config and word.endswith(_FILES[:2] if positional else _FILES):
            found.config.append(word)
        elif positional and not word.startswith("-"):
            lists.setdefault(positional, []).append(word)
        else:
            found.problems.append(f"{COMMAND_LINE}: {word!r} does not belong to any flag")
