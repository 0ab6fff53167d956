from __future__ import annotations

import json
from pathlib import Path

import pytest

from swiftlike.core.errors import UserError
from swiftlike.datasets_registry.custom import read, register
from swiftlike.datasets_registry.syntax import parse


def test_v2_names_with_a_path_beside_the_file_and_columns(tmp_path: Path) -> None:
    info = tmp_path / "info.json"
    entry = {"dataset_path": "mine.jsonl", "columns": {"ask": "query"}, "subsets": ["s"], "split": ["train", "test"]}
    info.write_text(json.dumps({"mine-v2": entry, "far": {"dataset_id": "a/b", "hf_dataset_id": "c/d"}}))
    mine, far = read(str(info))
    assert (mine.name, mine.path, dict(mine.columns)) == ("mine-v2", str(tmp_path / "mine.jsonl"), {"ask": "query"})
    assert (mine.subsets, mine.split) == (("s",), "train+test")
    assert (far.ms, far.hf) == ("a/b", "c/d")


def test_v4_list_in_yaml_and_as_text(tmp_path: Path) -> None:
    info = tmp_path / "info.yaml"
    info.write_text("- hf_dataset_id: some/pairs\n  subsets:\n  - subset: en\n    columns: {q: query}\n")
    (card,) = read(str(info))
    assert (card.name, card.hf, card.subsets, dict(card.columns)) == (
        "some/pairs",
        "some/pairs",
        ("en",),
        {"q": "query"},
    )
    assert read('[{"ms_dataset_id": "x/y", "dataset_name": "n"}]')[0].name == "n"


def test_conversations_with_roles_and_keys_of_their_own() -> None:
    spec = {
        "conversations_key": "talk",
        "from_key": "who",
        "value_key": "says",
        "user_role": "me",
        "assistant_role": "it",
    }
    (card,) = read(json.dumps({"t": {"dataset_path": "x.jsonl", "conversations": spec}}))
    assert card.to_row is not None
    row = card.to_row({"talk": [{"who": "me", "says": "q"}, {"who": "it", "says": "a"}], "rejected_response": "b"})
    assert row is not None
    assert [turns.messages[0].content for turns in (row.prompt, *row.completions)] == ["q", "a", "b"]


def test_registered_sets_are_known_by_name_once_and_again(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()
    info = tmp_path / "info.json"
    info.write_text(json.dumps({"test-custom-set": {"dataset_path": "rows.jsonl"}}))
    register([str(info)])
    register([str(info)])
    card = parse("test-custom-set#4").card
    assert card is not None
    assert card.path == str(tmp_path / "rows.jsonl")
    with pytest.raises(UserError, match="rlaif-v"):
        register(['{"rlaif-v": {"hf_dataset_id": "a/b"}}'])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": {"dataset_pth": "x"}}', "did you mean 'dataset_path'"),
        ('{"a": {}}', "is needed"),
        ('{"a": 3}', "not a set of keys"),
        ("[1", "not JSON"),
        ("nowhere.json", "no such file"),
        ('{"a": {"dataset_path": "x", "conversations": {"role": 1}}}', "unknown key 'role'"),
    ],
)
def test_mistakes_are_named(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read(text)
