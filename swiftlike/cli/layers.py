"""From the words of a command line to a Run: configuration files, environment, checkpoint, plugins, other flags."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from swiftlike.args import hf, refused
from swiftlike.args.environment import environment_problems, environment_values
from swiftlike.cli.commands import COMMANDS, load
from swiftlike.cli.normalise import Words, normalise
from swiftlike.core.checksums import refuse_damaged
from swiftlike.core.coerce import coerce
from swiftlike.core.declare import Command
from swiftlike.core.errors import UserError
from swiftlike.core.files import ARGS, RECORDS, named_folders, newest_checkpoint, read_args, read_document
from swiftlike.core.flags import Flags, nearest
from swiftlike.core.merge import DEFAULT, Extra, Given, Run, merge

_loaded: set[Path] = set()


# What a run that goes on does not take from the run it continues: where it writes, and what was asked just once.
OF_THIS_START = frozenset(
    (
        "output_dir",
        "add_version",
        "resume_from_checkpoint",
        "resume_only_model",
        "resume_anyway",
        "ignore_data_skip",
        "dry_run",
        "run_name",
    )
)


# Flags that name a checkpoint; the first one that is given says what is restored.
CHECKPOINTS = ("resume_from_checkpoint", "ckpt_dir", "adapters", "model")


def build_run(command: Command, argv: list[str], env: Mapping[str, str]) -> tuple[Run, Words]:
    """Everything that a command line, its files and the environment ask for. UserError names every problem."""
    flags = flags_with_plugins(command, argv, env)
    words = normalise(argv, flags)
    layers = _layers(flags, words, env)
    layers.insert(0, _saved(flags, layers))
    problems = words.problems + environment_problems(env, flags.spellings(), lambda flag: bool(_elsewhere(flag, "")))
    return merge(command, layers, flags=flags, extra=_extra(flags), problems=problems), words


def flags_with_plugins(command: Command, argv: list[str], env: Mapping[str, str]) -> Flags:
    """The command's flags after the plugins that were asked for have added theirs."""
    flags = Flags(command)
    if "plugin" not in flags:
        return flags
    layers = _layers(flags, normalise(argv, flags), env)
    asked = [given.raw for layer in layers for given in layer if given.flag in ("plugin", *_aliases(flags, "plugin"))]
    paths = [path for raw in asked for path in coerce(list[str], raw)]
    for path in paths:
        load_plugin(Path(path))
    return Flags(command) if paths else flags


def _aliases(flags: Flags, name: str) -> tuple[str, ...]:
    return flags.by_name[name][0].aliases


def load_plugin(path: Path) -> None:
    """Run a user's Python file once, for what it adds to the registries. A missing file is reported later."""
    path = path.resolve()
    if path in _loaded or not path.is_file():
        return
    spec = importlib.util.spec_from_file_location(f"swiftlike_plugin_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"--plugin {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # annotations that are text are looked up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file raises is shown as theirs
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"{path}:{lines[-1]}" if lines else str(path)
        raise UserError(f"--plugin {where}: {type(error).__name__}: {error}") from error
    _loaded.add(path)


def _layers(flags: Flags, words: Words, env: Mapping[str, str]) -> list[list[Given]]:
    files = [
        [Given(str(key).replace("-", "_"), value, path) for key, value in read_document(path).items()]
        for path in words.config
    ]
    return [*files, environment_values(env, flags.spellings()), words.given]


def _saved(flags: Flags, layers: Iterable[Iterable[Given]]) -> list[Given]:
    """What the checkpoint that is continued, or that is the model, remembers of its own training."""
    asked: dict[str, Any] = {}
    for given in (given for layer in layers for given in layer):
        flag = flags.get(given.flag)
        if flag is not None and flag.name in (*CHECKPOINTS, "resume_only_model"):
            asked[flag.name] = given.raw[0] if isinstance(given.raw, list) and given.raw else given.raw
    for name in CHECKPOINTS:
        folder = _folder(name, str(asked.get(name) or ""))
        if folder and name == "resume_from_checkpoint":
            refuse_damaged(folder, only=RECORDS)  # what is read here; the other files when the command runs
        found = read_args(folder) if folder else None
        if found:
            weights_only = str(asked.get("resume_only_model", "false")).lower() in ("true", "1", "yes", "on")
            if name == "resume_from_checkpoint" and not weights_only and found[0].name == ARGS:
                return _continued(flags, *found)
            lora = (found[0].parent / "adapter_config.json").is_file()
            whole = name == "model" or (name == "ckpt_dir" and not lora)
            return _restored(flags, *found, continued=not whole)
    return []


def _folder(name: str, given: str) -> Path | None:
    """The checkpoint folder that a flag names; of a run folder its newest one."""
    if not given:
        return None
    folder = Path(named_folders([given])[0][1] if name == "adapters" else given).expanduser()
    inside = newest_checkpoint(folder) if name in ("ckpt_dir", "adapters") and folder.is_dir() else None
    return inside if inside is not None and read_args(inside) else folder


def _continued(flags: Flags, path: Path, saved: Mapping[str, Any]) -> list[Given]:
    """A run that goes on takes every value it was given when it started, but where it writes."""
    origin = read_document(path).get("origin", {})
    return [
        Given(key, value, str(path))
        for key, value in saved.items()
        if origin.get(key, "") != DEFAULT and key not in OF_THIS_START and (key in flags.by_name or key in hf.fields())
    ]


def _restored(flags: Flags, path: Path, saved: Mapping[str, Any], *, continued: bool) -> list[Given]:
    found: dict[str, Given] = {}
    for key in sorted(saved, key=lambda key: key not in flags.by_name):  # real names before old spellings of them
        flag = flags.get(key)
        if flag is None or saved[key] is None or key in flag.field.metadata["old"] or flag.name in found:
            continue
        restore = flag.field.metadata["restore"]
        if restore is True or (restore == "adapter" and continued):
            found[flag.name] = Given(key, saved[key], str(path))
    return list(found.values())


def _extra(flags: Flags) -> Extra:
    """What a key means that no section declares: an old flag, a TrainingArguments field, or a mistake to explain."""

    def extra(flag: str, raw: Any) -> Mapping[str, Any]:
        try:
            refused.refuse(flag, raw)
        except KeyError:
            pass
        else:
            return {}
        training = "train" in flags.command.sections
        if training and flag in hf.fields():
            return {flag: hf.read(flag, raw)}
        homes = _elsewhere(flag, flags.command.name)
        if homes:
            raise ValueError(f"belongs to {' and '.join(homes)}, not to `swiftlike {flags.command.name}`")
        raise ValueError(f"unknown flag{nearest(flag, (*flags.spellings(), *(hf.fields() if training else ())))}")

    return extra


def _elsewhere(spelling: str, here: str) -> list[str]:
    """Which other commands, and which objective there, a flag belongs to."""
    homes = []
    for name in COMMANDS:
        flags = Flags(load(name)) if name != here else None
        flag = flags.get(spelling) if flags else None
        if flags and flag:
            choices = sorted({one.choice for one in flags.by_name[flag.name]} - {""})
            homes.append(f"`swiftlike {name}`" + (f" with {' or '.join(choices)}" if choices else ""))
    return homes
