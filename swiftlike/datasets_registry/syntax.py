"""The text that names data: `[hf::|ms::]id-or-path[:subset/subset][#N]`."""

from __future__ import annotations

import dataclasses as dc
import difflib
import re
from collections.abc import Iterable
from pathlib import Path

from swiftlike.core.errors import UserError, suggestion
from swiftlike.datasets_registry import DATASETS
from swiftlike.datasets_registry.card import DatasetCard

DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".gz")
HUBS = ("hf", "ms")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_NEAREST = 3


@dc.dataclass(frozen=True, slots=True)
class Wanted:
    """What one item of `--dataset` asks for.

    Exactly one of `card`, `path` and `id` says where the data is: a registered set, a local file or folder, or the id
    of an unregistered set on a hub. `hub` is "hf", "ms" or "" (the default hub); `count` is N of `#N`.
    """

    text: str
    card: DatasetCard | None = None
    path: Path | None = None
    hub: str = ""
    id: str = ""
    subsets: tuple[str, ...] = ()
    count: int | None = None

    @property
    def name(self) -> str:
        """A short name for reports: the card's, the hub id, or the path as it was typed."""
        return self.card.name if self.card else self.id or str(self.path)


def parse(text: str) -> Wanted:
    """Read one item. UserError for an unknown prefix, a missing file, an unknown name or a count that is no number.

    The order is that of ms-swift: prefix, then an existing path is taken whole (so a file may be called `a#1.jsonl`),
    then the last `#`, then the first `:`. A path that exists wins over a registered name, unless a hub is named.
    """
    text = text.strip()
    if not text:
        raise UserError("an empty data set name")
    if _exists(text):
        return Wanted(text, path=_path(text))
    hub, rest = _hub(text)
    if _exists(rest) and not (hub and find_card(rest)):
        return Wanted(text, path=_path(rest))
    name, count = _count(rest)
    if _exists(name) and not (hub and find_card(name)):
        return Wanted(text, path=_path(name), count=count)
    name, subsets = _subsets(name)
    card = find_card(name)
    if card is not None and (hub or not _exists(name)):
        return Wanted(text, card=card, hub=hub, subsets=_known_subsets(card, subsets), count=count)
    if _exists(name):
        return Wanted(text, path=_path(name), subsets=subsets, count=count)
    if _is_local(name, hub):
        raise _missing_file(name)
    if not _HUB_ID.fullmatch(name):
        raise UserError(
            f"unknown data set {name!r}{suggestion(name, _names())}",
            hint="give a file, a folder, an owner/name on the hub, or a name of `swiftlike list datasets`",
        )
    return Wanted(text, id=name, hub=hub, subsets=subsets, count=count)


def parse_all(items: Iterable[str]) -> list[Wanted]:
    """Read every item; one item may also be a comma list, as in ms-swift v2."""
    found: list[Wanted] = []
    for item in items:
        parts = [item] if _exists(item.strip()) else [part for part in item.split(",") if part.strip()]
        found.extend(parse(part) for part in parts or [item])
    return found


def find_card(name: str) -> DatasetCard | None:
    """The card of that name, alias or hub id, so that a registered id gets its registered reading."""
    if name in DATASETS:
        return DATASETS.get(name)
    folded = name.casefold()
    return next((card for card in DATASETS if folded in (card.hf.casefold(), card.ms.casefold())), None)


def _names() -> tuple[str, ...]:
    return tuple(name for card in DATASETS for name in (card.name, *card.aliases, card.hf) if name)


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _exists(text: str) -> bool:
    try:
        return bool(text) and _path(text).exists()
    except (OSError, RuntimeError, ValueError):  # too long, no such home folder, NUL byte: no path of this machine
        return False


def _hub(text: str) -> tuple[str, str]:
    prefix, mark, rest = text.partition("::")
    if not mark:
        return "", text
    hub = prefix.strip().lower()
    if hub not in HUBS:
        raise UserError(f"unknown prefix {prefix + '::'!r} in {text!r}", hint="known prefixes are hf:: and ms::")
    return hub, rest.strip()


def _count(text: str) -> tuple[str, int | None]:
    name, mark, digits = text.rpartition("#")
    if not mark:
        return text, None
    digits = digits.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) < 16 and int(digits) > 0):
        raise UserError(
            f"{text!r}: after # stands how many rows to take, a whole number above 0, not {digits!r}",
            hint="a file whose own name has a # must exist; this one does not",
        )
    return name.strip(), int(digits)


def _subsets(text: str) -> tuple[str, tuple[str, ...]]:
    name, mark, subsets = text.partition(":")
    if not mark:
        return text, ()
    found = tuple(subset.strip() for subset in subsets.split("/") if subset.strip())
    if not found:
        raise UserError(f"{text!r}: a subset is missing after the colon")
    return name.strip(), found


def _known_subsets(card: DatasetCard, asked: tuple[str, ...]) -> tuple[str, ...]:
    if asked == ("all",) and "all" not in card.known_subsets:
        return card.known_subsets
    for subset in asked:
        if card.known_subsets and subset not in card.known_subsets:
            raise UserError(
                f"{card.name} has no subset {subset!r}{suggestion(subset, card.known_subsets)}",
                hint=f"it has {', '.join(card.known_subsets)}",
            )
    return asked or card.subsets


def _is_local(name: str, hub: str) -> bool:
    """Whether a name that does not exist was meant as a path of this machine: then no hub is asked."""
    if name.startswith(("./", "../", "/", "~")) or name in (".", ".."):
        return True
    if hub:
        return False
    owner = name.partition("/")[0]
    return name.lower().endswith(DATA_SUFFIXES) or name.count("/") > 1 or ("/" in name and _exists(owner))


def _missing_file(name: str) -> UserError:
    path = _path(name)
    folder = path.parent
    if not folder.is_dir():
        return UserError(f"no such file or folder: {name}", hint=f"the folder {folder} does not exist either")
    there = sorted(
        child.name
        for child in folder.iterdir()
        if not child.name.startswith(".") and (child.is_dir() or child.name.lower().endswith(DATA_SUFFIXES))
    )
    near = difflib.get_close_matches(path.name, there, n=_NEAREST, cutoff=0.4) or there[:_NEAREST]
    listed = ", ".join(near) if near else "no data files"
    hint = f"nearest in {folder}: {listed}"
    if _HUB_ID.fullmatch(name):
        hint += f"; write hf::{name} if you mean the hub"
    return UserError(f"no such file or folder: {name}", hint=hint)
