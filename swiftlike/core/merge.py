"""Layers of values -> one frozen Run that knows where each value came from. Every problem is reported at once."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from swiftlike.core import secrets
from swiftlike.core.declare import Command
from swiftlike.core.errors import UserError, suggestion
from swiftlike.core.flags import Flags, nearest

COMMAND_LINE = "command line"
DEFAULT = "default"


class Given(NamedTuple):
    """One value as somebody wrote it, and where: `source` is "command line", "run.yaml", "environment MAX_PIXELS"."""

    flag: str
    raw: Any
    source: str

    @property
    def written(self) -> str:
        """The flag as the user typed it."""
        return f"--{self.flag}" if self.source == COMMAND_LINE else repr(self.flag)


Layer = Iterable[Given]
Extra = Callable[[str, Any], Mapping[str, Any]]


@dc.dataclass(frozen=True)
class Run:
    """Everything that one command was asked to do. Sections are attributes: `run.data.max_length`.

    `origin` maps every flag to where its value came from, `hf` holds TrainingArguments fields that are not ours.
    """

    command: str
    sections: Mapping[str, Any]
    origin: Mapping[str, str] = dc.field(default_factory=dict)
    hf: Mapping[str, Any] = dc.field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        sections = self.__dict__.get("sections", {})  # absent while pickle rebuilds the object
        if name not in sections:
            raise AttributeError(f"the {self.__dict__.get('command', '')} command has no section {name!r}")
        return sections[name]

    def flags(self) -> dict[str, Any]:
        """Every value, flat, extra TrainingArguments fields included; secrets are hidden."""
        values = {field.name: _public(field, value) for _, field, value in self._fields()}
        return {**values, **secrets.public(self.hf)}

    def replace(self, source: str, **values: Any) -> Run:
        """The same run with some values changed; `source` says why, as in "derived: lora". KeyError: no such flag."""
        homes = {field.name: section for section, field, _ in self._fields()}
        sections = dict(self.sections)
        for flag, value in values.items():
            sections[homes[flag]] = dc.replace(sections[homes[flag]], **{flag: value})
        return dc.replace(self, sections=sections, origin={**self.origin, **dict.fromkeys(values, source)})

    def _fields(self) -> Iterable[tuple[str, dc.Field[Any], Any]]:
        for name, section in self.sections.items():
            for field in dc.fields(section):
                yield name, field, getattr(section, field.name)


def _public(field: dc.Field[Any], value: Any) -> Any:
    return secrets.HIDDEN if value and field.metadata.get("secret") else secrets.public(value, field.name)


def refuse(flags: Flags) -> Extra:
    """What happens to a key that no section declares, when nothing else may take it: it is refused."""

    def extra(flag: str, raw: Any) -> Mapping[str, Any]:
        raise ValueError(f"unknown flag{nearest(flag, flags.spellings())}")

    return extra


def merge(
    command: Command,
    layers: Iterable[Layer],
    *,
    flags: Flags | None = None,
    extra: Extra | None = None,
    problems: Iterable[str] = (),
) -> Run:
    """Merge layers, later ones win, and build the sections. UserError names every problem at once.

    `extra(flag, raw)` is asked about keys that no section declares: it gives the TrainingArguments fields that they
    set, or raises ValueError with the reason why they cannot be used. `problems` were found before.
    """
    flags = flags or Flags(command)
    merging = _Merging(command, flags, extra or refuse(flags), list(problems))
    for layer in layers:
        merging.take(layer)
    run = merging.build()
    if run is not None and command.check is not None:
        merging.problems += command.check(run)
    if run is None or merging.problems:
        raise UserError("cannot start:", problems=dict.fromkeys(merging.problems))
    return run


@dc.dataclass
class _Merging:
    command: Command
    flags: Flags
    extra: Extra
    problems: list[str]
    values: dict[str, Any] = dc.field(default_factory=dict)
    hf: dict[str, Any] = dc.field(default_factory=dict)
    origin: dict[str, str] = dc.field(default_factory=dict)
    written: dict[str, str] = dc.field(default_factory=dict)

    def take(self, layer: Layer) -> None:
        """Enter one layer. Two spellings of one flag must agree inside a layer."""
        seen: dict[str, tuple[Given, Any]] = {}
        for given in layer:
            try:
                found = self._read(given)
            except ValueError as error:
                self.problems.append(f"{given.source}: {given.written}: {error}")
                continue
            for name, value in found.items():
                before = seen.setdefault(name, (given, value))
                if before[1] != value:
                    self.problems.append(_disagreement(before[0], given))
                self.origin[name], self.written[name] = given.source, given.written

    def _read(self, given: Given) -> dict[str, Any]:
        flag = self.flags.get(given.flag)
        if flag.field.metadata["secret"] if flag else secrets.is_secret(given.flag):
            secrets.remember(given.raw)  # before anything can complain about it
        if flag is None:
            found = dict(self.extra(given.flag, given.raw))
            self.hf.update(found)
            return found
        name, value = self.flags.read(given.flag, given.raw)
        if value is ...:
            return {}
        self.values[name] = value
        return {name: value}

    def build(self) -> Run | None:
        """The run, or None when the flag that chooses a section has no such value."""
        sections = {name: self._section(cls) for name, cls in self.command.sections.items()}
        chosen: dict[str, str] = {}
        for name, (flag, table) in self.command.choose.items():
            value = next(getattr(section, flag) for section in sections.values() if hasattr(section, flag))
            if value not in table:
                where = self.origin.get(flag, DEFAULT)
                self.problems.append(
                    f"{where}: {flag}: {value!r} is not one of {', '.join(table)}{suggestion(value, table)}"
                )
                return None
            chosen[flag] = value
            sections[name] = self._section(table[value])
        self._homeless(chosen)
        origin = {field.name: DEFAULT for section in sections.values() for field in dc.fields(section)}
        return Run(self.command.name, sections, origin | self.origin, self.hf)

    def _section(self, cls: type) -> Any:
        return cls(**{field.name: self.values[field.name] for field in dc.fields(cls) if field.name in self.values})

    def _homeless(self, chosen: Mapping[str, str]) -> None:
        """A value that was given but belongs to another choice is a problem, never ignored."""
        active = {"", *(f"{flag}={value}" for flag, value in chosen.items())}
        for name in self.values:
            homes = {flag.choice for flag in self.flags.by_name[name]}
            if not homes & active:
                text = " or ".join(sorted(homes))
                ours = ", ".join(sorted(active - {""}))
                self.problems.append(f"{self.origin[name]}: {self.written[name]} belongs to {text}, not {ours}")


def _disagreement(first: Given, second: Given) -> str:
    if first.flag == second.flag:
        return f"{first.source}: {first.written} is given twice: {first.raw!r} and {second.raw!r}"
    return (
        f"{first.source}: {first.written} and {second.written} mean the same, "
        f"but say {first.raw!r} and {second.raw!r}; give one of them"
    )
