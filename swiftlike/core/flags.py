"""Every spelling that a command accepts: flag names, their aliases, and flags that said the same with other values."""

from __future__ import annotations

import dataclasses as dc
import difflib
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from swiftlike.core.coerce import coerce, is_none
from swiftlike.core.declare import Command, Translate, default_of, types_of

_SWITCH = {"true", "false", "none"}


@dc.dataclass(frozen=True)
class Flag:
    """One declaration of a flag. `choice` is "" or the choice that it belongs to, as "rlhf_type=simpo"."""

    name: str
    section: str
    kind: Any
    field: dc.Field[Any]
    choice: str = ""

    @property
    def default(self) -> Any:
        """The value when nobody says otherwise."""
        return default_of(self.field)

    @property
    def help(self) -> str:
        """One line of meaning."""
        return str(self.field.metadata["help"])

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other spellings of the flag, those with other values included."""
        return (*self.field.metadata["aliases"], *self.field.metadata["old"])

    def read(self, raw: Any) -> Any:
        """`raw` as this flag's type, within its bounds. ValueError with the reason otherwise."""
        value = coerce(self.kind, self._respelled(raw))
        low, high = self.field.metadata["ge"], self.field.metadata["le"]
        if isinstance(value, int | float) and not isinstance(value, bool):
            if low is not None and value < low:
                raise ValueError(f"{value} is less than {low}")
            if high is not None and value > high:
                raise ValueError(f"{value} is more than {high}")
        return value

    def _respelled(self, raw: Any) -> Any:
        spellings = self.field.metadata["values"]
        if isinstance(raw, list):
            return [spellings.get(item, item) if isinstance(item, str) else item for item in raw]
        return spellings.get(raw, raw) if isinstance(raw, str) else raw


class Flags:
    """The flags of one command by name, with every other spelling."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.by_name: dict[str, list[Flag]] = {}
        self._aliases: dict[str, str] = {}
        self._old: dict[str, Translate] = {}
        for section, cls in command.sections.items():
            self._enter(section, cls, "")
        for section, (flag, table) in command.choose.items():
            for value, cls in table.items():
                self._enter(section, cls, f"{flag}={value}")

    def _enter(self, section: str, cls: type, choice: str) -> None:
        for field in dc.fields(cls):
            flag = Flag(field.name, section, types_of(cls)[field.name], field, choice)
            homes = self.by_name.setdefault(flag.name, [])
            if homes and (homes[0].kind != flag.kind or not homes[0].choice or not choice):
                raise ValueError(f"{cls.__name__} declares --{flag.name} again, with another type or another meaning")
            homes.append(flag)
            for alias in flag.aliases:
                if self._aliases.setdefault(alias, flag.name) != flag.name:
                    raise ValueError(f"--{alias} stands for both --{self._aliases[alias]} and --{flag.name}")
            self._old.update(field.metadata["old"])

    def __contains__(self, spelling: str) -> bool:
        return spelling in self.by_name or spelling in self._aliases

    def __iter__(self) -> Any:
        return iter(self.by_name)

    def get(self, spelling: str) -> Flag | None:
        """The (first) flag that a spelling stands for."""
        homes = self.by_name.get(self._aliases.get(spelling, spelling))
        return homes[0] if homes else None

    def kind_of(self, spelling: str) -> Any:
        """The type of the values that this spelling takes, None when unknown: bool for --use_flash_attn."""
        old = self._old.get(spelling)
        if isinstance(old, dict) and set(old) <= _SWITCH:
            return bool
        flag = self.get(spelling)
        return flag.kind if flag else None

    def read(self, spelling: str, raw: Any) -> tuple[str, Any]:
        """Real name and typed value; the value is `...` when it asks for nothing. ValueError with the reason."""
        flag = self.get(spelling)
        if flag is None:
            raise KeyError(spelling)
        old = self._old.get(spelling)
        if old is None:
            return flag.name, flag.read(raw)
        meant = old(raw) if callable(old) else _meaning(old, raw)
        return flag.name, (... if meant is ... else flag.read(meant))

    def choices(self, name: str) -> tuple[str, ...]:
        """The values that choose a section through this flag; empty for other flags."""
        return tuple(value for flag, table in self.command.choose.values() if flag == name for value in table)

    def spellings(self) -> tuple[str, ...]:
        """Every name and alias."""
        return (*self.by_name, *self._aliases)


def _meaning(table: Any, raw: Any) -> Any:
    word = str(raw).lower()
    if set(table) <= _SWITCH and not is_none(raw):
        word = str(coerce(bool, raw)).lower()
    if word not in table:
        raise ValueError(f"{raw!r} is not one of {', '.join(table)}")
    return table[word]


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean --lora_rank or --lora_alpha?` for the nearest known flags, or nothing when none is near."""
    close = difflib.get_close_matches(word, list(known), n=2, cutoff=0.7)
    return f"; did you mean {' or '.join('--' + name for name in close)}?" if close else ""


def is_list(kind: Any) -> bool:
    """Whether a flag of this type takes several words."""
    return get_origin(kind) in (list, dict)


def is_bool(kind: Any) -> bool:
    """Whether a flag of this type may stand alone."""
    return kind is bool or kind == bool | None


def word_for(kind: Any) -> str:
    """How help names a type: INT, TEXT ..., {a|b}, JSON."""
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        return "|".join(word_for(member) for member in inner if member is not NoneType)
    if origin is Literal:
        return "{" + "|".join(map(str, inner)) + "}"
    if origin is list:
        return f"{word_for(inner[0])} ..."
    return {bool: "{true|false}", dict: "JSON", str: "TEXT", int: "INT", float: "FLOAT"}[origin]
