"""The file of answers: whole lines, each row once, and no answers of another run among them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from swiftlike.core.errors import UserError
from swiftlike.pipelines.infer.results import Claim, Lines, errors_in, new_path, notes_of, read_indices

FACTS = {"model": "m", "sampling": {"stop": ("a", "b")}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that a run began and that holds rows 2 and 0."""
    path = tmp_path / "deep" / "answers.jsonl"
    Claim(path, FACTS).close()
    lines = Lines(path)
    for index in (2, 0):
        lines.add({"index": index, "response": "für \ud800 \u2028 alle\n"})
    lines.close()
    return path


def test_what_is_written_is_read_again(path: Path) -> None:
    claim = Claim(path, FACTS)
    assert claim.done == {0, 2}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert [row["index"] for row in rows] == [2, 0]
    assert rows[0]["response"] == "für \ud800 \u2028 alle\n"


@pytest.mark.parametrize("tail", [b"{", b'{"index": 1, "response": "x"}', '{"index": 1, "response": "ä'.encode()[:-1]])
def test_a_line_without_its_end_is_dropped(path: Path, tail: bytes) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + tail * 1000)
    assert Claim(path, FACTS).done == {0, 2}
    assert path.read_bytes() == whole


def test_a_cut_line_is_dropped_before_the_next_one_is_added(path: Path) -> None:
    lines = Lines(path)
    with path.open("ab") as other:
        other.write(b'{"index": 7, "resp')
    lines.add({"index": 1})
    assert list(read_indices(path)) == [2, 0, 1]


def test_a_file_of_one_cut_line_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    Claim(path, FACTS).close()
    path.write_bytes(b'{"index": 0, "response": "' + b"x" * 200_000)
    assert Claim(path, FACTS).done == frozenset()
    assert path.read_bytes() == b""


@pytest.mark.parametrize("line", ["{]", '{"row": 1}', "[1]", ""])
def test_a_strange_line_is_named(path: Path, line: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"answers\.jsonl:3: not an answer"):
        Claim(path, FACTS)


def test_a_row_that_is_there_twice_is_named(path: Path) -> None:
    lines = Lines(path)
    lines.add({"index": 2})
    with pytest.raises(UserError, match=r":3: row 2 is there twice, first in line 1"):
        Claim(path, FACTS)


def test_answers_of_another_run_are_refused_and_left_alone(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(UserError, match="holds answers of another run") as caught:
        Claim(path, FACTS | {"model": "other", "more": 1})
    assert caught.value.problems == ("model: 'm' there, now 'other'", "more: None there, now 1")
    assert path.read_bytes() == before
    assert Claim(path, FACTS).done == {0, 2}


def test_of_many_values_those_that_changed_are_named(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    Claim(path, {"sampling": {"top_k": 5, "temperature": 0.9}}).close()
    with pytest.raises(UserError) as caught:
        Claim(path, {"sampling": {"top_k": 5, "temperature": 0.5}})
    assert caught.value.problems == ("sampling: temperature: 0.9 there, now 0.5",)


def test_errors_of_a_file_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"index": 0, "error": "bad"}\n{"index": 1, "error": null}\n')
    assert errors_in(path) == 1


def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("precious")
    with pytest.raises(UserError, match="did not begin it"):
        Claim(path, FACTS)
    assert path.read_text() == "precious"


def test_notes_that_were_cut_off_before_any_answer_are_written_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    notes_of(path).write_text('{"mod')
    Claim(path, FACTS).close()
    assert json.loads(notes_of(path).read_text())["model"] == "m"


def test_only_one_process_writes(path: Path) -> None:
    code = f"""
from pathlib import Path
from swiftlike.pipelines.infer.results import Claim
Claim(Path({str(path)!r}), {FACTS!r})
"""
    claim = Claim(path, FACTS)
    first = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "another process is writing" in first.stderr
    claim.close()
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr


def test_threads_and_processes_add_whole_lines(path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from swiftlike.pipelines.infer.results import Lines
lines = Lines(Path({str(path)!r}))
for index in range(int(sys.argv[1]), int(sys.argv[1]) + 200):
    lines.add({{"index": index, "response": "x" * (index * 7 % 5000)}})
"""
    started = [subprocess.Popen([sys.executable, "-c", code, str(start)]) for start in (1000, 2000)]
    lines = Lines(path)

    def some(start: int) -> None:
        for index in range(start, start + 200):
            lines.add({"index": index, "response": "y" * 3000})

    threads = [threading.Thread(target=some, args=(start,)) for start in (3000, 4000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait() for process in started] == [0, 0]
    expected = {0, 2, *(start + k for start in (1000, 2000, 3000, 4000) for k in range(200))}
    assert set(read_indices(path)) == expected


def test_new_files_take_names_that_are_free(tmp_path: Path) -> None:
    found = []
    for _ in range(3):
        path = new_path(tmp_path, now=0.0)
        path.parent.mkdir(exist_ok=True)
        path.touch()
        found.append(path.name)
    assert len(set(found)) == 3
    assert {path.parent for path in (tmp_path / "infer_result").iterdir()} == {tmp_path / "infer_result"}


def test_a_file_without_answers_does_not_stay(path: Path, tmp_path: Path) -> None:
    Claim(path, FACTS).end()
    assert path.is_file()
    empty = Claim(tmp_path / "empty.jsonl", FACTS)
    empty.end()
    assert not empty.path.exists()
    assert not notes_of(empty.path).exists()


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        Claim(tmp_path / "file" / "answers.jsonl", FACTS)
