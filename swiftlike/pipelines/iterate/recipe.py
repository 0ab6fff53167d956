"""A recipe file and its overrides -> the steps that are to be done, in order, with every value resolved."""

from __future__ import annotations

import dataclasses as dc
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from swiftlike.core.declare import Stage
from swiftlike.core.errors import UserError, suggestion
from swiftlike.pipelines.iterate.reading import read

PROGRAM = "program"  # the kind of a stage that is not a command of ours
_STAGE = ("command", "program", "options", "args", "output", "when", "nproc_per_node")
_LOOP = ("from", "to", "stages", "when")
Place = tuple[tuple[str, int], ...]  # the loops that a step is in, outermost first, and the round of each


@dc.dataclass(frozen=True, kw_only=True)
class Step:
    """One stage in one round. `words` is its command line, `inputs` the steps whose output it reads."""

    key: str
    place: Place
    kind: str
    words: tuple[str, ...]
    folder: Path
    output: Path
    inputs: tuple[str, ...]
    stage: Stage
    processes: int | None = None

    @property
    def name(self) -> str:
        """`iter0/generate`."""
        return "/".join([*(f"{loop}{number}" for loop, number in self.place), self.key])

    @property
    def round(self) -> str:
        """`iter0`; the stage's own name outside of loops."""
        return "/".join(f"{loop}{number}" for loop, number in self.place) or self.key


@dc.dataclass(frozen=True, kw_only=True)
class Recipe:
    """The steps of a recipe; everything it writes lies in `root`."""

    path: Path
    root: Path
    steps: tuple[Step, ...]


def load(path: Path, overrides: Sequence[str], kinds: Mapping[str, Stage]) -> Recipe:
    """Read a recipe. UserError for a value, a reference or a stage that cannot be made out."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    config = read(path)
    _refuse_unknown(path, config, overrides)
    try:
        config = OmegaConf.merge(config, OmegaConf.from_dotlist(list(overrides)))
        return _Expansion(path, config, kinds)()
    except OmegaConfBaseException as error:
        inner: BaseException | None = error
        while inner is not None and not isinstance(inner, UserError):
            inner = inner.__cause__ or inner.__context__
        if inner is not None:  # of a reference
            raise inner from None
        raise UserError(f"{path}: {_one_line(error)}") from None


def _refuse_unknown(path: Path, config: Any, overrides: Sequence[str]) -> None:
    """An override names a value of the recipe, or a new one in a mapping that it has: there it is a stage's flag."""
    from omegaconf import OmegaConf

    problems = []
    for override in overrides:
        name, equals, _ = override.partition("=")
        parent = name.rpartition(".")[0]
        node = OmegaConf.select(config, parent, throw_on_resolution_failure=False) if parent else config
        if not equals:
            problems.append(f"{override!r}: changes are written as name=value")
        elif not OmegaConf.is_dict(node):
            problems.append(f"{name}: there is no {parent}{_near(parent, config)}")
        elif not parent and name not in config:
            problems.append(f"{name}: the recipe has no such value{_near(name, config)}")
    if problems:
        raise UserError(f"{path} cannot be changed like this", problems=problems)


def _near(name: str, config: Any) -> str:
    close = difflib.get_close_matches(name, [str(key) for key in config], n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(str(key) for key in config)}"


class _Expansion:
    """Walks through the stages in order, each resolved against those before it."""

    def __init__(self, path: Path, config: Any, kinds: Mapping[str, Stage]) -> None:
        self.path, self.config, self.kinds = path, config, kinds
        for name in ("output_dir", "stages"):
            if name not in config:
                raise UserError(f"{path}: `{name}` is missing")
        self.root = Path(str(config.output_dir)).expanduser()
        self.steps: list[Step] = []
        self.read: list[str] = []  # steps that the stage at hand refers to
        self.here: tuple[Place, str, Path] | None = None
        self.off: set[str] = set()  # stages that `when` leaves out

    def __call__(self) -> Recipe:
        from omegaconf import OmegaConf

        resolvers = {"out": self._out, "last": self._last, "all": self._all, "named": self._named, "equal": _equal}
        for name, found in resolvers.items():
            OmegaConf.register_resolver(name, found, replace=True)
        try:
            self._stages(self.config.stages, ())
        finally:
            for name in resolvers:
                OmegaConf.clear_resolver(name)
        if not self.steps:
            raise UserError(f"{self.path} has no stages")
        return Recipe(path=self.path, root=self.root, steps=tuple(self.steps))

    def _stages(self, stages: Any, place: Place) -> None:
        for key, node in stages.items():
            if not hasattr(node, "items"):
                raise UserError(f"{self.path}: stage {key!r} is not a mapping")
            if node.get("when", True) is False:
                self.off.add(str(key))
                continue
            if "stages" in node:
                self._loop(str(key), node, place)
            else:
                self._step(str(key), node, place)

    def _loop(self, key: str, node: Any, place: Place) -> None:
        _only(self.path, f"loop {key!r}", node, _LOOP)
        first, last = self._number(key, node, "from"), self._number(key, node, "to")
        if last < first:
            raise UserError(f"{self.path}: loop {key!r} has no round: from {first} to {last}")
        before = self.config.get(key)
        for number in range(first, last + 1):
            self.config[key] = number
            self._stages(node.stages, (*place, (key, number)))
        self.config[key] = before

    def _number(self, key: str, node: Any, name: str) -> int:
        try:
            return int(node[name])
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{self.path}: loop {key!r}: `{name}` is not a whole number") from None

    def _step(self, key: str, node: Any, place: Place) -> None:
        _only(self.path, f"stage {key!r}", node, _STAGE)
        if any(step.key == key and step.place == place for step in self.steps):
            raise UserError(f"{self.path}: there are two stages {key!r}")
        kind, stage = self._kind(key, node)
        folder = self.root.joinpath(*(f"{loop}{number}" for loop, number in place), key)
        output = Path(folder, str(node.get("output", stage.output)))
        self.here, self.read = (place, key, output), []
        if kind == PROGRAM:
            words = [str(word) for word in _plain(node.program)]
        else:
            args = self._args(key, node)
            words = [kind, *words_of({**args, stage.flag: str(output)})]
            if stage.trains:
                words += ["--add_version", "false"]
        processes = node.get("nproc_per_node")
        self.steps.append(
            Step(
                key=key,
                place=place,
                kind=kind,
                words=tuple(words),
                folder=folder,
                output=output,
                inputs=tuple(dict.fromkeys(self.read)),
                stage=stage,
                processes=None if processes is None else int(processes),
            )
        )

    def _args(self, key: str, node: Any) -> dict[str, Any]:
        """The flags of a stage: `args` over `options`, of which later ones win when there are several."""
        options = _plain(node.get("options"))
        several = options if isinstance(options, list) else [options]
        found: dict[str, Any] = {}
        for one in (*several, _plain(node.get("args"))):
            if not isinstance(one, dict):
                raise UserError(f"{self.path}: stage {key!r}: `options` and `args` are mappings of flags, not {one!r}")
            found |= one
        return found

    def _kind(self, key: str, node: Any) -> tuple[str, Stage]:
        if ("command" in node) == ("program" in node):
            raise UserError(f"{self.path}: stage {key!r} has one of `command` and `program`")
        if "program" in node:
            if "output" not in node:
                raise UserError(f"{self.path}: stage {key!r}: a program says what it writes: `output`")
            return PROGRAM, Stage(output=str(node.output), flag="")
        command = str(node.command)
        if command not in self.kinds:
            known = suggestion(command, self.kinds) or f"; there are {', '.join(self.kinds)}"
            raise UserError(f"{self.path}: stage {key!r}: {command!r} is no stage{known}")
        return command, self.kinds[command]

    def _current(self) -> tuple[Place, str, Path]:
        if self.here is None:
            raise UserError(f"{self.path}: ${{out:...}}, ${{last:...}} and ${{all:...}} belong into stages")
        return self.here

    def _named_like(self, key: str) -> list[Step]:
        found = [step for step in self.steps if step.key == key]
        if not found and key not in set(self._keys(self.config.stages)):
            known = suggestion(key, self._keys(self.config.stages))
            raise UserError(f"{self.path}: stage {self._current()[1]!r} refers to {key!r}, which there is not{known}")
        return found

    def _keys(self, stages: Any) -> Iterator[str]:
        for key in stages:
            node = stages._get_node(key)
            if hasattr(node, "items") and "stages" in node:
                yield from self._keys(node.stages)
            else:
                yield str(key)

    def _out(self, key: str) -> str:
        place, own, output = self._current()
        if key == own:
            return str(output)
        found = [step for step in self._named_like(key) if step.place == place[: len(step.place)]]
        if not found:
            why = "is switched off by `when`" if key in self.off else "does not come before it in its round"
            raise UserError(f"{self.path}: stage {own!r} needs {key!r}, which {why}")
        return self._uses(max(found, key=lambda step: len(step.place)))

    def _last(self, key: str, *first: Any) -> Any:
        place, own, _ = self._current()
        found = [step for step in self._named_like(key) if not step.place or step.place != place[: len(step.place)]]
        if found:
            return self._uses(found[-1])
        if not first:
            raise UserError(f"{self.path}: stage {own!r}: {key!r} has no round before; say what the first one takes")
        return first[0]

    def _all(self, key: str) -> list[str]:
        return [self._uses(step) for step in self._named_like(key)]

    def _named(self, key: str, prefix: str = "") -> list[str]:
        prefix = prefix and f":{prefix}"
        return [f"{step.round}{prefix}={self._uses(step)}" for step in self._named_like(key)]

    def _uses(self, step: Step) -> str:
        self.read.append(step.name)
        return str(step.output)


def _equal(one: Any, other: Any) -> bool:
    return str(one) == str(other)


def _plain(node: Any) -> Any:
    """A mapping or list with every interpolation resolved; {} for nothing."""
    from omegaconf import OmegaConf

    if node is None:
        return {}
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _only(path: Path, what: str, node: Any, known: Sequence[str]) -> None:
    wrong = [str(key) for key in node if key not in known]
    if wrong:
        hints = [f"{key!r}{suggestion(key, known)}" for key in wrong]
        raise UserError(f"{path}: {what} has {', '.join(hints)}", hint=f"it may have {', '.join(known)}")


def words_of(args: Mapping[str, Any]) -> list[str]:
    """The words of a command line; None stands for a flag that is not given."""
    words: list[str] = []
    for flag, value in args.items():
        if value is None:
            continue
        values = [_word(one) for one in _flat(value)] if isinstance(value, list) else [_word(value)]
        if len(values) == 1 and values[0].startswith("--"):
            words.append(f"--{flag}={values[0]}")
        else:
            words += [f"--{flag}", *(values or ["none"])]
    return words


def _flat(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list):
            yield from _flat(value)
        else:
            yield value


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
