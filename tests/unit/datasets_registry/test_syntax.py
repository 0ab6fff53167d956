from __future__ import annotations

from pathlib import Path

import pytest

from swiftlike.core.errors import UserError
from swiftlike.datasets_registry.syntax import parse, parse_all


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("pairs.jsonl", "a#1.jsonl", "b:c.jsonl", "d,e.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "set" / "one").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "path", "subsets", "count"),
    [
        ("pairs.jsonl", "pairs.jsonl", (), None),
        ("  pairs.jsonl # 12 ", "pairs.jsonl", (), 12),
        ("a#1.jsonl", "a#1.jsonl", (), None),
        ("a#1.jsonl#3", "a#1.jsonl", (), 3),
        ("b:c.jsonl#2", "b:c.jsonl", (), 2),
        ("set:one/two#5", "set", ("one", "two"), 5),
        ("hf::pairs.jsonl", "pairs.jsonl", (), None),
    ],
)
def test_local_paths(text: str, path: str, subsets: tuple[str, ...], count: int | None) -> None:
    wanted = parse(text)
    assert (str(wanted.path), wanted.subsets, wanted.count, wanted.card) == (path, subsets, count, None)


def test_registered_names_and_hub_ids() -> None:
    wanted = parse("HF::hh-rlhf:helpful-base/harmless-base#500")
    assert wanted.card is not None
    assert (wanted.card.name, wanted.hub, wanted.count) == ("hh-rlhf", "hf", 500)
    assert wanted.subsets == ("helpful-base", "harmless-base")
    assert parse("hh-rlhf").subsets == ("helpful-base", "helpful-online", "helpful-rejection-sampled")
    assert len(parse("hh-rlhf:all").subsets) == 4
    assert parse("ms::someone/some-set:x").id == "someone/some-set"
    assert parse("openbmb/rlaif-v-dataset").card is parse("rlaif-v").card


def test_an_existing_path_wins_over_a_name_unless_a_hub_is_named(folder: Path) -> None:
    (folder / "rlaif-v").mkdir()
    assert parse("rlaif-v").path == Path("rlaif-v")
    assert parse("hf::rlaif-v#3").card is not None
    (folder / "shp").mkdir()
    assert parse("shp:askvet").path == Path("shp")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("xx::pairs.jsonl", "known prefixes are hf:: and ms::"),
        ("pears.jsonl", "pairs.jsonl"),
        ("./nope", "no such file"),
        ("/nowhere/at/all.json", "does not exist either"),
        ("set/thing", "hf::set/thing"),
        ("a/b/c", "no such file"),
        ("rlaif-w", "did you mean 'rlaif-v'"),
        ("pairs.jsonl#0", "above 0"),
        ("pairs.jsonl#-3", "above 0"),
        ("pairs.jsonl#many", "above 0"),
        ("pairs.jsonl#1.5", "above 0"),
        ("hh-rlhf:helpful-bas", "did you mean 'helpful-base'"),
        ("rlaif-v:", "a subset is missing"),
        ("", "empty"),
        ("x" * 5000, "unknown data set"),
        ("nul\0.jsonl", "no such file"),
    ],
)
def test_what_is_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        parse(text)


def test_comma_lists_of_v2_and_files_with_a_comma() -> None:
    assert [wanted.name for wanted in parse_all(["rlaif-v#3,shp", "d,e.jsonl"])] == ["rlaif-v", "shp", "d,e.jsonl"]
