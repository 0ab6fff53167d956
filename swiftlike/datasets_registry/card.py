"""What is known about a data set: where it is, and how one of its records becomes a Row."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Mapping
from typing import Any

from swiftlike.datasets_registry.row import Row

_LONGEST = 2000  # characters of a reason; what a row holds may be megabytes


class BadRow(ValueError):  # noqa: N818 - a fact about a row more than an error
    """A record that cannot be used. The text is the reason, without file and line; `kind` is what is counted."""

    def __init__(self, kind: str, detail: str = "") -> None:
        detail = detail if len(detail) <= _LONGEST else f"{detail[:_LONGEST]}..."
        self.kind, self.detail = kind, detail
        super().__init__(f"{kind}: {detail}" if detail else kind)


@dc.dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """One known data set.

    `to_row` turns one record (a dict as the file or hub has it) into a Row, returns None to leave it out by design
    (a tie, another language), and raises BadRow with a reason when the record is broken. None means: recognise the
    format by its columns, after `columns` renamed them.
    """

    name: str
    aliases: tuple[str, ...] = ()
    hf: str = ""  # id on the Hugging Face hub
    ms: str = ""  # id on ModelScope
    path: str = ""  # local file or folder; relative to the file that registered it
    build: str = ""  # dotted path of a function (folder[, subset]) -> file for built-in data
    subsets: tuple[str, ...] = ()  # what a bare name means; empty: the only one, or "default"
    known_subsets: tuple[str, ...] = ()
    subset_folders: bool = False  # subsets are folders of the hub repository, not configurations
    split: str = "train"
    kinds: tuple[str, ...] = ()  # what it can train: completion, pair, labelled, ranked
    vision: bool = False
    columns: Mapping[str, str] = dc.field(default_factory=dict)  # its name -> ours
    to_row: Callable[[dict[str, Any]], Row | None] | None = None
    licence: str = ""
    help: str = ""
