from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swiftlike.core.errors import UserError
from swiftlike.data import sources
from swiftlike.data.sources import open_source
from swiftlike.datasets_registry.syntax import parse

from .conftest import picture


def hub_set(tmp_path: Path, streaming: bool) -> Any:
    """A data set as the hub's library gives it, pictures decoded on access."""
    import datasets

    rows = {"question": ["q1", "q2"], "chosen": ["a", "c"], "rejected": ["b", "d"], "image": [None, None]}
    rows["image"] = [str(picture(tmp_path / f"{n}.png")) for n in range(2)]
    features = {key: datasets.Value("string") for key in rows} | {"image": datasets.Image()}
    found = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    return found.to_iterable_dataset() if streaming else found


@pytest.mark.parametrize("streaming", [False, True])
def test_hub_records_come_raw_with_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool) -> None:
    asked: list[Any] = []

    def load(name: str, subset: str | None, split: str, **options: Any) -> Any:
        asked.append((name, subset, split, options))
        return hub_set(tmp_path, options["streaming"])

    monkeypatch.setattr(sources, "_load_hf", load)
    source = open_source(parse("rlaif-v"), {})
    records = list(source.stream() if streaming else source.table())
    assert [origin for _, origin in records] == ["openbmb/RLAIF-V-Dataset:1", "openbmb/RLAIF-V-Dataset:2"]
    assert set(records[0][0]["image"]) == {"bytes", "path"}  # not decoded
    assert asked == [("openbmb/RLAIF-V-Dataset", None, "train", {"folder": False, "streaming": streaming})]


def test_identities_change_with_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load(name: str, subset: str | None, split: str, **options: Any) -> Any:
        return datasets.Dataset.from_dict({"text": [name, split]}, split=split).map(lambda row: row)

    monkeypatch.setattr(sources, "_load_hf", load)
    one, same, other = (open_source(parse(name), {}).identity()[1] for name in ("a/b", "a/b", "a/c"))
    assert one == same != other
    found = []
    for text in ("one", "two", "one"):
        (tmp_path / "a.jsonl").write_text(text)
        found.append(open_source(parse(str(tmp_path)), {}).identity())
    assert found[0] == found[2] != found[1]
    assert [size for size, _ in found] == [3, 3, 3]


def test_each_subset_is_loaded_and_hubs_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None, bool]] = []

    def refuse(name: str, subset: str | None, split: str, *, folder: bool, streaming: bool) -> Any:
        asked.append((name, subset, folder))
        raise ConnectionError("no route\nand much more text")

    monkeypatch.setattr(sources, "_load_hf", refuse)
    monkeypatch.setattr(sources, "_load_ms", refuse)
    for text, hub in (
        ("hh-rlhf:helpful-base", "hf"),
        ("ms::hh-rlhf:helpful-base", "hf"),
        ("hh-rlhf-cn", "hf"),
        ("a/b", "ms"),
    ):
        with pytest.raises(UserError, match="no route") as caught:
            open_source(parse(text), {}, hub).table()
        assert "much more" not in str(caught.value)
    assert asked == [
        ("Anthropic/hh-rlhf", "helpful-base", True),
        ("AI-ModelScope/hh-rlhf", "helpful-base", True),
        ("AI-ModelScope/hh_rlhf_cn", "hh_rlhf", False),
        ("a/b", None, False),
    ]
    with pytest.raises(UserError, match="data set trl-rlaif-v is not on ModelScope"):
        open_source(parse("ms::trl-rlaif-v"), {}).table()


def test_built_in_data_is_written_once_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWIFTLIKE_CACHE", str(tmp_path / "cache"))
    source = open_source(parse("demo:test"), {})
    assert source.paths[0].is_relative_to(tmp_path / "cache" / "data" / "demo")
    record, origin = source.table()[0]
    assert {"query", "response", "rejected_response"} <= record.keys()
    assert origin.endswith(":1")
