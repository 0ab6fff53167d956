"""Where the records of one item of `--dataset` come from: a file, a folder, a built-in set, or a hub."""

from __future__ import annotations

import dataclasses as dc
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from swiftlike.core.cache import cache_folder
from swiftlike.core.dotted import resolve
from swiftlike.core.errors import UserError, suggestion
from swiftlike.core.files import file_facts
from swiftlike.core.optional import require
from swiftlike.data.files import Record, Records, files_of, read
from swiftlike.data.tables import Table, joined, table_of
from swiftlike.datasets_registry.card import DatasetCard
from swiftlike.datasets_registry.syntax import Wanted

UNKNOWN_SIZE = 1 << 30  # bytes that a hub's data set is taken to have


@dc.dataclass(frozen=True)
class Source:
    """One data set that is known to exist. `columns` renames its columns before they are looked at."""

    wanted: Wanted
    columns: Mapping[str, str]
    paths: tuple[Path, ...] = ()
    hub: str = "hf"  # where ids without a prefix are looked for

    @property
    def name(self) -> str:
        """Its name in reports, with subsets."""
        subsets = f":{'/'.join(self.wanted.subsets)}" if self.wanted.subsets else ""
        return self.wanted.name + subsets

    @property
    def split(self) -> str:
        """The split of the hub or folder that is read."""
        return self.wanted.card.split if self.wanted.card else "train"

    def table(self) -> Table:
        """All records, indexable."""
        if self.paths:
            return joined([table_of(path, self.split) for path in self.paths])
        return joined([_HubTable(*part) for part in _from_hub(self, streaming=False)])

    def identity(self) -> tuple[int, list[Any]]:
        """(bytes, facts that change when the records do), without reading what is large. UserError as in `table`."""
        if self.paths:
            facts = [file_facts(file) for path in self.paths for file in files_of(path, self.split)]
            return sum(size for _, size, _ in facts), facts
        return UNKNOWN_SIZE, self._hub_identity

    @functools.cached_property
    def _hub_identity(self) -> list[tuple[str, str]]:
        """The hub's library has a fingerprint of what it has downloaded, of a certain revision."""
        return [(name, records._fingerprint) for name, records in _from_hub(self, streaming=False)]

    def stream(self) -> Records:
        """All records one after another, never all in memory."""
        for path in self.paths:
            yield from read(path, self.split)
        if not self.paths:
            for name, records in _from_hub(self, streaming=True):
                yield from ((record, f"{name}:{number}") for number, record in enumerate(_plain(records), start=1))


def open_source(wanted: Wanted, columns: Mapping[str, str], hub: str = "hf") -> Source:
    """Find the data. UserError when a local part is missing; a hub is only asked when records are read."""
    card = wanted.card
    if card and columns and card.to_row is None:
        columns = {**card.columns, **columns}
    elif card:
        columns = card.columns
    path = wanted.path
    if card and card.build:
        return Source(wanted, columns, _built(card, wanted.subsets))
    if card and card.path and not wanted.hub:
        path = Path(card.path)
        if not path.exists():
            raise UserError(f"data set {card.name}: no such file or folder: {path}")
    if path is None:
        return Source(wanted, columns, hub=hub)
    return Source(wanted, columns, tuple(_subset(path, subset) for subset in wanted.subsets) or (path,))


def _built(card: DatasetCard, subsets: Sequence[str]) -> tuple[Path, ...]:
    """The files of built-in data, made in the cache folder when they are not there."""
    build, folder = resolve(card.build), cache_folder("data") / card.name
    folder.mkdir(parents=True, exist_ok=True)
    return tuple(Path(build(folder, subset)) for subset in subsets) or (Path(build(folder)),)


def _subset(path: Path, subset: str) -> Path:
    """A subset of a folder: a folder in it, or the file of that name."""
    if path.is_dir():
        inner = path / subset
        if inner.exists():
            return inner
        there = {child.name.partition(".")[0]: child for child in sorted(path.iterdir())}
        if subset in there:
            return there[subset]
        raise UserError(f"{path} has no subset {subset!r}{suggestion(subset, there)}")
    raise UserError(f"{path} is a file and has no subset {subset!r}")


def _from_hub(source: Source, *, streaming: bool) -> Iterator[tuple[str, Any]]:
    """(name, data set) of each wanted subset, as the hub's library gives it."""
    wanted = source.wanted
    card = wanted.card
    hub = wanted.hub or source.hub
    if card and not wanted.hub and not getattr(card, hub):
        hub = "ms" if hub == "hf" else "hf"  # the only one that has it
    name = wanted.id or (getattr(card, hub) if card else "")
    if not name:
        assert card is not None
        raise UserError(f"data set {card.name} is not on {_HUB_NAMES[hub]}", hint="use another hub's prefix")
    for subset in wanted.subsets or (None,):
        shown = f"{name}:{subset}" if subset else name
        load = _load_hf if hub == "hf" else _load_ms
        folder = bool(card and card.subset_folders)
        try:
            yield shown, load(name, subset, source.split, folder=folder, streaming=streaming)
        except UserError:
            raise
        except Exception as error:
            first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            raise UserError(
                f"cannot load {shown} (split {source.split}) from {_HUB_NAMES[hub]}: {first}",
                hint="check the name, the network and the token; local data is given as a path",
            ) from error


_HUB_NAMES = {"hf": "the Hugging Face hub", "ms": "ModelScope"}


def _load_hf(name: str, subset: str | None, split: str, *, folder: bool, streaming: bool) -> Any:
    datasets = require("datasets", because=f"--dataset {name}")
    where = {"data_dir" if folder else "name": subset} if subset else {}
    return datasets.load_dataset(name, split=split, streaming=streaming, **where)


def _load_ms(name: str, subset: str | None, split: str, *, folder: bool, streaming: bool) -> Any:
    require("modelscope", because=f"--dataset ms::{name}", extra="modelscope")
    loader = require("modelscope.msdatasets", because=f"--dataset ms::{name}").MsDataset
    found = loader.load(name, subset_name=subset or "default", split=split, use_streaming=streaming)
    return found.to_hf_dataset() if hasattr(found, "to_hf_dataset") else found


def _plain(records: Any) -> Iterator[dict[str, Any]]:
    """Records without decoded pictures: the raw arrow values hold bytes and path."""
    for table in records.with_format("arrow"):
        yield from table.to_pylist()


class _HubTable(Sequence[tuple[Record, str]]):
    """Random access to a downloaded set, which lies in memory-mapped files."""

    def __init__(self, name: str, records: Any) -> None:
        self.name, self.records = name, records.with_format("arrow")

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        if index >= len(self):
            raise IndexError(index)
        return self.records[index].to_pylist()[0], f"{self.name}:{index + 1}"
