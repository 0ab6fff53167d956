"""Data sets that a user registers in a JSON or YAML file, as in ms-swift v2 (names to entries) or v4 (a list)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from swiftlike.core.errors import UserError, suggestion
from swiftlike.datasets_registry import DATASETS
from swiftlike.datasets_registry.card import BadRow, DatasetCard
from swiftlike.datasets_registry.row import Row
from swiftlike.datasets_registry.shapes import to_row

_ID_KEYS = {
    "hf_dataset_id": "hf",
    "ms_dataset_id": "ms",
    "dataset_id": "ms",  # v2
    "dataset_path": "path",
}
_KEYS = (
    *_ID_KEYS,
    *("dataset_name", "subsets", "split", "columns", "conversations", "tags", "help"),
    *("remove_useless_columns", "huge_dataset", "is_weak_subset"),
)
_CONVERSATION = {
    "user_role": "user",
    "assistant_role": "assistant",
    "system_role": "system",
    "conversations_key": "conversations",
    "from_key": "from",
    "value_key": "value",
    "error_strategy": "raise",
    "repair_conversations": None,
}
_registered: dict[str, tuple[DatasetCard, ...]] = {}


def register(sources: Iterable[str]) -> None:
    """Enter the data sets of each file (or JSON text) into the registry. A source that is already in is left alone."""
    for source in sources:
        if source in _registered:
            continue
        cards = read(source)
        DATASETS.names()  # the shipped cards first, so that a taken name is found here
        for card in cards:
            taken = next((name for name in (card.name, *card.aliases) if name in DATASETS), None)
            if taken:
                raise UserError(f"{_shown(source)}: the name {taken!r} is taken by a known data set")
            DATASETS.add(card)
        _registered[source] = cards


def read(source: str) -> tuple[DatasetCard, ...]:
    """The cards of one file or JSON text. UserError names the entry and the key that is wrong."""
    content, folder = _content(source)
    if isinstance(content, dict):
        entries = [(name, entry) for name, entry in content.items()]
    elif isinstance(content, list):
        entries = [("", entry) for entry in content]
    else:
        raise UserError(f"{_shown(source)}: expected names with entries, or a list of entries")
    return tuple(
        _card(name, entry, folder, f"{_shown(source)}: entry {name or number}")
        for number, (name, entry) in enumerate(entries, start=1)
    )


def _shown(source: str) -> str:
    return source if len(source) <= 80 else source[:80] + "..."


def _content(source: str) -> tuple[Any, Path]:
    if source.lstrip().startswith(("{", "[")):
        text, folder, yaml = source, Path(), False
    else:
        path = Path(source).expanduser()
        if not path.is_file():
            raise UserError(f"--custom_dataset_info: no such file: {source}")
        text, folder, yaml = path.read_text(encoding="utf-8"), path.parent, path.suffix.lower() in (".yaml", ".yml")
    try:
        if yaml:
            from yaml import safe_load

            return safe_load(text), folder
        return json.loads(text), folder
    except ValueError as error:
        raise UserError(f"{_shown(source)} is not JSON: {error}") from error
    except Exception as error:
        raise UserError(f"{_shown(source)} is not YAML: {error}") from error


def _card(name: str, entry: Any, folder: Path, where: str) -> DatasetCard:
    if not isinstance(entry, dict):
        raise UserError(f"{where} is not a set of keys")
    for key in entry:
        if key not in _KEYS:
            raise UserError(f"{where}: unknown key {key!r}{suggestion(str(key), _KEYS)}")
    ids = {ours: str(entry[theirs]) for theirs, ours in _ID_KEYS.items() if entry.get(theirs)}
    if not ids:
        raise UserError(f"{where}: one of hf_dataset_id, ms_dataset_id and dataset_path is needed")
    path = ids.get("path", "")
    if path:
        path = str(folder / Path(path).expanduser())
    subsets, columns = _subsets(entry, where)
    name = str(name or entry.get("dataset_name") or ids.get("hf") or ids.get("ms") or path)
    split = entry.get("split") or "train"
    return DatasetCard(
        name=name,
        hf=ids.get("hf", ""),
        ms=ids.get("ms", ""),
        path=path,
        subsets=subsets,
        known_subsets=subsets,
        split=split if isinstance(split, str) else "+".join(map(str, split)),
        columns=columns,
        to_row=_conversation(entry["conversations"], where) if entry.get("conversations") else None,
        help=str(entry.get("help") or ""),
    )


def _subsets(entry: dict[str, Any], where: str) -> tuple[tuple[str, ...], dict[str, str]]:
    columns = dict(entry.get("columns") or {})
    names = []
    for subset in entry.get("subsets") or ():
        if isinstance(subset, dict):
            if "subset" not in subset:
                raise UserError(f"{where}: a subset has no key 'subset'")
            names.append(str(subset["subset"]))
            columns |= subset.get("columns") or {}
        else:
            names.append(str(subset))
    return tuple(names), columns


def _conversation(spec: dict[str, Any], where: str) -> Callable[[dict[str, Any]], Row | None]:
    """A reader for conversations with roles and keys of their own (v2's `conversations` block)."""
    for key in spec:
        if key not in _CONVERSATION:
            raise UserError(f"{where}: unknown key {key!r} in conversations{suggestion(str(key), _CONVERSATION)}")
    chosen = {**_CONVERSATION, **spec}
    roles = {str(chosen[f"{role}_role"]): role for role in ("user", "assistant", "system")}

    def read_record(record: dict[str, Any]) -> Row | None:
        turns = record.get(chosen["conversations_key"])
        if not isinstance(turns, list):
            raise BadRow("not a list of messages", f"{chosen['conversations_key']} is {type(turns).__name__}")
        messages = []
        for number, turn in enumerate(turns):
            who = turn.get(chosen["from_key"]) if isinstance(turn, dict) else None
            if who not in roles:
                raise BadRow("unknown role", f"{chosen['conversations_key']}[{number}] is from {who!r}")
            messages.append({"role": roles[who], "content": turn.get(chosen["value_key"])})
        rest = {key: value for key, value in record.items() if key != chosen["conversations_key"]}
        return to_row({**rest, "messages": messages})[0]

    return read_record
