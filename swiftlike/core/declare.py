"""The one declaration of an argument: a field of a frozen dataclass. Flag, help, YAML key, environment name and
validation all come from it."""

from __future__ import annotations

import dataclasses as dc
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, dataclass_transform, get_type_hints

Section = TypeVar("Section")
Translate = Mapping[str, Any] | Callable[[Any], Any]


def arg(  # noqa: PLR0913 - one keyword per fact about an argument; every one is optional
    default: Any,
    help: str,  # noqa: A002 - the field's word for it
    *,
    ge: float | None = None,
    le: float | None = None,
    restore: bool | Literal["adapter"] = False,
    aliases: tuple[str, ...] = (),
    values: Mapping[str, str] | None = None,
    old: Mapping[str, Translate] | None = None,
    secret: bool = False,
) -> Any:
    """Declare one argument of a section.

    `ge` and `le` bound numbers (inclusive). `restore` lets the args.json of a checkpoint set the value again;
    "adapter" only when the checkpoint is continued (its adapters or a resume), not when it is the model itself.
    `aliases` are other spellings that stay accepted for good (those of ms-swift v2, v3 and v4, and of TRL), `values`
    other spellings of a value. `old` holds flags that said the same with other values: {"use_flash_attn": {"true":
    "flash_attention_2", "false": ...}}; `...` means that this value asks for nothing. `secret` values are not shown.
    """
    spec = {"help": help, "ge": ge, "le": le, "restore": restore, "aliases": aliases}
    spec |= {"values": values or {}, "old": old or {}, "secret": secret}
    if isinstance(default, list | dict):
        return dc.field(default_factory=default.copy, metadata=spec)
    return dc.field(default=default, metadata=spec, repr=not secret)


@dataclass_transform(field_specifiers=(arg,), kw_only_default=True, frozen_default=True)
def section(cls: type[Section]) -> type[Section]:
    """A frozen, keyword-only dataclass of `arg` fields."""
    return dc.dataclass(kw_only=True, frozen=True)(cls)


@functools.cache
def types_of(cls: type) -> dict[str, Any]:
    """Field name to resolved type of a section."""
    return get_type_hints(cls)


def default_of(field: dc.Field[Any]) -> Any:
    """The default of a field, with factories called."""
    return field.default if field.default_factory is dc.MISSING else field.default_factory()


@dc.dataclass(frozen=True, kw_only=True)
class Stage:
    """How a pipeline (`swiftlike iterate`) uses a command.

    `output` is what it writes, by default, in the folder of its stage ("." is the folder itself), and `flag` the flag
    that gets the path. `resumes`: after a kill, the same words go on where it was. `sharded`: several processes may
    each do a piece, by --shard and --num_shards. `trains`: torchrun starts it on all machines, and it goes on from its
    newest checkpoint.
    """

    output: str
    flag: str
    resumes: bool = False
    sharded: bool = False
    trains: bool = False


@dc.dataclass(frozen=True, kw_only=True)
class Command:
    """One sub-command: its sections, the sections chosen by the value of a flag, and what runs it.

    `choose` maps a section name to (flag, {value: section class}): `{"loss": ("rlhf_type", {"dpo": DpoArgs, ...})}`.
    `target` is the dotted path of `run(run: Run) -> Any`, imported only when the command really runs.
    """

    name: str
    summary: str
    target: str
    sections: Mapping[str, type]
    choose: Mapping[str, tuple[str, Mapping[str, type]]] = dc.field(default_factory=dict)
    positional: str | None = None  # a list argument that may be given without its flag
    check: Callable[[Any], list[str]] | None = None  # problems that only several values together show
    distributed: bool = False  # NPROC_PER_NODE and NNODES start torchrun
    stage: Stage | None = None  # None: no stage of a pipeline
    config: bool = True  # a YAML or JSON file among its words holds flags
