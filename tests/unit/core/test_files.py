"""Files that a killed run must not leave broken."""

import json
from pathlib import Path

import pytest

from swiftlike.core import files
from swiftlike.core.declare import Command, arg, section
from swiftlike.core.errors import UserError
from swiftlike.core.merge import COMMAND_LINE, Given, merge


@section
class Args:
    rank: int = arg(8, "rank")
    token: str | None = arg(None, "token", secret=True)


COMMAND = Command(name="go", summary="", target="", sections={"args": Args})


def test_jsonl_round_trip_with_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.jsonl"
    assert files.write_jsonl(path, [{"a": "é"}, 2]) == 2
    files.append_jsonl(path, {"b": 1})
    assert list(files.read_jsonl(path)) == [(1, {"a": "é"}), (2, 2), (3, {"b": 1})]
    assert "é" in path.read_text(encoding="utf-8")


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n{oops\n{"a": 2}\n')
    with pytest.raises(UserError, match=r"a\.jsonl:3: not JSON"):
        list(files.read_jsonl(path))
    bad: list[tuple[int, str]] = []
    assert list(files.read_jsonl(path, lambda line, reason: bad.append((line, reason)))) == [
        (1, {"a": 1}),
        (4, {"a": 2}),
    ]
    assert [line for line, _ in bad] == [3]


def test_a_missing_file_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        files.open_text(tmp_path / "nothing")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        files.write_jsonl(path, [{"b": 1}, object()])
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_run_folders_count_up(tmp_path: Path) -> None:
    first = files.new_run_folder(tmp_path, "org/model", now=0)
    assert first.parent == tmp_path / "org-model"
    assert first.name.startswith("v0-19")
    (first.parent / "v7-20240101-000000").mkdir()
    assert files.new_run_folder(tmp_path, "org/model").name.startswith("v8-")
    assert files.new_run_folder(tmp_path / "x", "any", add_version=False) == tmp_path / "x"


def test_args_round_trip_without_secrets(tmp_path: Path) -> None:
    run = merge(COMMAND, [[Given("rank", "4", COMMAND_LINE), Given("token", "hush", COMMAND_LINE)]])
    path = files.write_args(tmp_path, run)
    assert "hush" not in path.read_text()
    record = json.loads(path.read_text())
    assert record["format"] == 1
    assert record["origin"]["rank"] == COMMAND_LINE
    assert files.read_args(tmp_path) == (path, {"rank": 4})


def test_args_of_ms_swift_and_of_a_newer_version(tmp_path: Path) -> None:
    assert files.read_args(tmp_path) is None
    (tmp_path / "sft_args.json").write_text('{"template_type": "qwen"}')
    assert files.read_args(tmp_path) == (tmp_path / "sft_args.json", {"template_type": "qwen"})
    (tmp_path / "args.json").write_text('{"format": 99, "swiftlike": "9", "args": {}}')
    with pytest.raises(UserError, match="written by swiftlike 9"):
        files.read_args(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("a: 1\na: 2\n", "given twice: a"), ("[1]", "does not hold a mapping"), ("a: [", "cannot read")],
)
def test_a_broken_configuration_is_explained(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=reason):
        files.read_document(path)


def test_yaml_and_json_configurations(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("lr: 1e-5\n")
    (tmp_path / "a.json").write_text('{"lr": 1e-5}')
    (tmp_path / "empty.yaml").write_text("")
    assert files.read_document(tmp_path / "a.yaml") == {"lr": "1e-5"}
    assert files.read_document(tmp_path / "a.json") == {"lr": 1e-5}
    assert files.read_document(tmp_path / "empty.yaml") == {}


def test_a_run_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for versions in (True, False):
        with pytest.raises(UserError, match="cannot make a run folder in"):
            files.new_run_folder(tmp_path / "file", "any", add_version=versions)


def test_the_newest_checkpoint_of_a_run(tmp_path: Path) -> None:
    assert files.newest_checkpoint(tmp_path) is None
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-x", "images"):
        (tmp_path / name).mkdir()
    assert files.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_folders_with_and_without_names(tmp_path: Path) -> None:
    found = files.named_folders(["a=/x/y", "out/checkpoint-2/", str(tmp_path)])
    assert found == [("a", "/x/y"), ("checkpoint-2", "out/checkpoint-2/"), (tmp_path.name, str(tmp_path))]
