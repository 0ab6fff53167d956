"""Help as plain text within 100 columns: grouped, with default, choices and other spellings."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from typing import Any

from swiftlike.core.errors import UserError, suggestion
from swiftlike.core.flags import Flag, Flags, word_for
from swiftlike.core.merge import Given

WIDTH = 100
_LEFT = 34
_ALWAYS = (
    ("--config FILE ...", "YAML or JSON with flag names as keys; also as the first word. Later files win"),
    ("--show_config", "print every value and where it came from, then stop"),
    ("--help [GROUP|FLAG]", "this text, one group of it, or one flag"),
)


def groups(flags: Flags) -> dict[str, list[Flag]]:
    """Title -> flags, in order of declaration; "loss, when rlhf_type=simpo" for flags of a choice."""
    found: dict[str, list[Flag]] = {name: [] for name in flags.command.sections}
    for section, (flag, table) in flags.command.choose.items():
        found |= {f"{section}, when {flag}={value}": [] for value in table}
    for homes in flags.by_name.values():
        for flag in homes:
            found[f"{flag.section}, when {flag.choice}" if flag.choice else flag.section].append(flag)
    return found


def page(flags: Flags, word: str = "", given: Iterable[Given] = ()) -> str:
    """The help of a command, or only the group, choice or flag that `word` names.

    When `given` holds a choice, as `--rlhf_type simpo`, the flags of the other choices are left out.
    """
    found = groups(flags)
    for flag, raw in ((one.flag, one.raw) for one in given):
        if raw in flags.choices(flag):
            others = {title for title in found if f", when {flag}=" in title and not title.endswith(f"={raw}")}
            found = {title: members for title, members in found.items() if title not in others}
    if word:
        found = _narrowed(flags, found, word.removeprefix("--").replace("-", "_"))
    blocks = [_head(flags)] if not word else []
    blocks += [_block(flags, title, members) for title, members in found.items()]
    return "\n\n".join(blocks)


def _narrowed(flags: Flags, found: dict[str, list[Flag]], word: str) -> dict[str, list[Flag]]:
    one = flags.get(word)
    by_word = {
        title: members for title, members in found.items() if title == word or title.startswith(f"{word}, when ")
    }
    by_word |= {title: members for title, members in found.items() if title.endswith(f"={word}")}
    if by_word:
        return by_word
    if one is None:
        known = [title.partition(", when ")[0] for title in found] + [t.rpartition("=")[2] for t in found if "=" in t]
        names = tuple(dict.fromkeys(known))
        hint = f"groups: {', '.join(names)}"
        raise UserError(f"no group or flag {word!r}{suggestion(word, (*names, *flags.spellings()))}", hint=hint)
    return {
        title: [flag for flag in members if flag.name == one.name]
        for title, members in found.items()
        if any(flag.name == one.name for flag in members)
    }


def _head(flags: Flags) -> str:
    command = flags.command
    words = f" {command.positional.upper()} ..." if command.positional else " [RUN.yaml]"
    lines = [f"Usage: swiftlike {command.name}{words} [--flag value ...]", "", command.summary, ""]
    lines += [_entry(left, right) for left, right in _ALWAYS]
    return "\n".join(lines)


def _block(flags: Flags, title: str, members: list[Flag]) -> str:
    lines = [f"{title}:"]
    if not members:
        lines.append("  (no flags of its own)")
    lines += [_entry(f"--{flag.name} {_kind(flags, flag)}", _meaning(flag)) for flag in members]
    return "\n".join(lines)


def _kind(flags: Flags, flag: Flag) -> str:
    choices = flags.choices(flag.name)
    return "{" + "|".join(choices) + "}" if choices else word_for(flag.kind)


def _meaning(flag: Flag) -> str:
    text = f"{flag.help} [{shown(flag.default)}]"
    return text + (f" (also {', '.join('--' + alias for alias in flag.aliases)})" if flag.aliases else "")


def shown(value: Any) -> str:
    """A value as one would write it behind a flag."""
    if value is None or value in ([], {}):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return " ".join(map(str, value))
    return json.dumps(value) if isinstance(value, dict) or value == "" else str(value)


def _entry(left: str, right: str) -> str:
    indent = " " * _LEFT
    body = textwrap.wrap(right, WIDTH - _LEFT, break_long_words=False, break_on_hyphens=False)
    left = "  " + left
    if len(left) > _LEFT - 1:
        head = textwrap.wrap(left, WIDTH, subsequent_indent="      ", break_on_hyphens=False, drop_whitespace=False)
        return "\n".join([*_split_choices(head), *(indent + line for line in body)])
    return "\n".join([left.ljust(_LEFT) + body[0], *(indent + line for line in body[1:])])


def _split_choices(lines: list[str]) -> list[str]:
    """A long {a|b|c} has no blanks to wrap at."""
    short: list[str] = []
    for line in lines:
        while len(line) > WIDTH:
            cut = line.rindex("|", 0, WIDTH) + 1
            short.append(line[:cut])
            line = "      " + line[cut:]
        short.append(line)
    return short
