"""swiftlike list, and the table of --show_config."""

from __future__ import annotations

import fnmatch
import json
import textwrap
from collections.abc import Callable
from typing import Any

import typer

from swiftlike.cli.commands import COMMANDS, load
from swiftlike.cli.help import shown
from swiftlike.core.errors import UserError, suggestion
from swiftlike.core.flags import Flags, word_for
from swiftlike.core.merge import Run

Entry = dict[str, Any]


def run(run: Run) -> None:
    """Print one kind of things, those whose names match the pattern."""
    words = run.list.what
    if not words or len(words) > 2 or words[0] not in _KINDS:
        wrong = f"unknown list {words[0]!r}{suggestion(words[0], _KINDS)}" if words else "nothing to list"
        raise UserError(wrong, hint=f"swiftlike list {'|'.join(_KINDS)} [PART OF A NAME] [--json]")
    entries, show = _KINDS[words[0]]
    pattern = words[1] if len(words) == 2 else ""
    found = entries(pattern)
    if run.list.json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    elif not found:
        raise UserError(f"no {words[0]} match {pattern!r}", hint=f"swiftlike list {words[0]}")
    else:
        show = _explain_loss if words[0] == "losses" and pattern else show
        typer.echo("\n".join(line for entry in found for line in show(entry)))
        if words[0] == "losses" and not pattern:
            typer.echo("\nswiftlike list losses exo   also says what the original code does otherwise; --json says all")


def _matches(pattern: str, *words: str) -> bool:
    pattern = pattern.lower().removeprefix("--")
    wild = pattern if "*" in pattern else f"*{pattern}*"
    return any(fnmatch.fnmatchcase(word.lower(), wild) for word in words)


def models(pattern: str = "") -> list[Entry]:
    """Model families with their published checkpoints; a family that only some checkpoints match lists those."""
    from swiftlike.model_registry import MODELS
    from swiftlike.model_registry.builtin import BUILTIN

    found = []
    for card in MODELS:
        points = {name: point.hf or point.ms for name, point in card.checkpoints.items()}
        points |= {one.name: f"built in: {one.help}" for one in BUILTIN if one.family == card.name}
        if not _matches(pattern, card.name, *card.aliases):
            points = {name: where for name, where in points.items() if _matches(pattern, name, where)}
            if not points:
                continue
        entry = {"name": card.name, "aliases": list(card.aliases), "template": card.template}
        found.append(entry | {"vision": card.vision is not None, "checkpoints": points})
    return found


def datasets(pattern: str = "") -> list[Entry]:
    """Registered data sets."""
    from swiftlike.datasets_registry import DATASETS

    return [
        {
            "name": card.name,
            "aliases": list(card.aliases),
            "hf": card.hf,
            "ms": card.ms,
            "path": card.path,
            "subsets": list(card.known_subsets or card.subsets),
            "trains": list(card.kinds),
            "vision": card.vision,
            "licence": card.licence,
            "help": card.help,
        }
        for card in DATASETS
        if _matches(pattern, card.name, *card.aliases, card.hf, card.ms)
    ]


def losses(pattern: str = "") -> list[Entry]:
    """Objectives."""
    from swiftlike.losses import LOSSES

    return [
        {
            "name": card.name,
            "summary": card.summary,
            "data": card.data,
            "reference": bool(card.needs_reference(card.args())),
            "loss": card.words(card.args()),
            "formula": card.formula,
            "when": card.when,
            "defaults": card.defaults,
            "differs": list(card.differs),
            "paper": card.paper,
        }
        for card in LOSSES
        if _matches(pattern, card.name, card.summary)
    ]


def formats(pattern: str = "") -> list[Entry]:
    """File formats of `swiftlike convert`."""
    from swiftlike.datasets_registry.formats import FORMATS, targets

    return [
        {"name": one.name, "rows": list(one.kinds), "written": one.write is not None, "becomes": targets(one.kinds)}
        | {"columns": [need.split("|") for need in one.needs], "help": one.help}
        for one in FORMATS.values()
        if _matches(pattern, one.name, one.help)
    ]


def flag_list(pattern: str = "") -> list[Entry]:
    """Every flag of every command: type, default by command and choice, other spellings."""
    found: dict[str, Entry] = {}
    for name in COMMANDS:
        for flag in (flag for homes in Flags(load(name)).by_name.values() for flag in homes):
            if not _matches(pattern, flag.name, *flag.aliases):
                continue
            entry = found.setdefault(flag.name, {"name": flag.name, "type": word_for(flag.kind), "help": flag.help})
            entry.setdefault("aliases", list(flag.aliases))
            entry.setdefault("defaults", {})[f"{name}, {flag.choice}" if flag.choice else name] = flag.default
    return [found[name] for name in sorted(found)]


def _show_model(entry: Entry) -> list[str]:
    kind = "vision" if entry["vision"] else "text"
    lines = [f"{entry['name']}  ({kind}, template {entry['template']})"]
    return lines + [f"  {name:<36} {where}" for name, where in entry["checkpoints"].items()]


def _show_dataset(entry: Entry) -> list[str]:
    where = entry["hf"] or entry["ms"] or entry["path"] or "built in"
    kind = " ".join([*entry["trains"], *(["vision"] if entry["vision"] else [])])
    return [f"{entry['name']:<32} {where:<44} {kind}"]


def _show_loss(entry: Entry) -> list[str]:
    """What an objective is, when to take it, and what its defaults are."""
    needs = f"{entry['data']} rows" + (", reference" if entry["reference"] else "")
    lines = [f"{entry['name']:<10} {entry['summary']} ({needs})", f"{'':<10} {entry['loss']}  {entry['paper']}"]
    parts = {"formula": entry["formula"], "when": entry["when"], "defaults": entry["defaults"]}
    return lines + [line for name, text in parts.items() for line in _folded(name, text)]


def _explain_loss(entry: Entry) -> list[str]:
    """All that is known about an objective, for one that was asked for by name."""
    return [*_show_loss(entry), *(line for text in entry["differs"] for line in _folded("differs", text))]


def _folded(name: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, 100, break_on_hyphens=False, initial_indent=f"{'':<10} {name + ':':<10} ", subsequent_indent=" " * 22
    )


def _show_format(entry: Entry) -> list[str]:
    return [f"{entry['name']:<16} {', '.join(entry['rows']):<28} {entry['help']}"]


def _show_flag(entry: Entry) -> list[str]:
    values = dict.fromkeys(shown(value) for value in entry["defaults"].values())
    where = " | ".join(entry["defaults"])
    lines = [f"--{entry['name']} {entry['type']}  {entry['help']} [{' | '.join(values)}]", f"      {where}"]
    return lines + ([f"      also {', '.join('--' + name for name in entry['aliases'])}"] if entry["aliases"] else [])


_KINDS: dict[str, tuple[Callable[[str], list[Entry]], Callable[[Entry], list[str]]]] = {
    "models": (models, _show_model),
    "datasets": (datasets, _show_dataset),
    "losses": (losses, _show_loss),
    "formats": (formats, _show_format),
    "flags": (flag_list, _show_flag),
}


def config_table(run: Run) -> str:
    """Every value of a run and where it came from."""
    rows = [(flag, shown(value), run.origin.get(flag, "default")) for flag, value in run.flags().items()]
    return "\n".join(f"{flag:<28} {value:<32} {source}" for flag, value, source in rows)
