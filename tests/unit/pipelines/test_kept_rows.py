"""Rows that were prepared once are taken up again, unless anything that decides them has changed."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import families
import pytest

from swiftlike.cli.commands import load
from swiftlike.cli.layers import build_run
from swiftlike.core import cache
from swiftlike.core.errors import UserError
from swiftlike.data import kept
from swiftlike.pipelines import rows
from swiftlike.pipelines.continuing import made_of
from swiftlike.pipelines.prepare import open_checkpoint
from swiftlike.pipelines.rows import Data, read_data
from swiftlike.pipelines.settings import seeded
from swiftlike.pipelines.train import loss_card


class Said(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    @property
    def again(self) -> bool:
        return any("(from cache)" in line for line in self.lines)


@pytest.fixture
def said() -> Iterator[Said]:
    handler, logger = Said(), logging.getLogger("swiftlike")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, rows that name pictures too, and a cache in which small data is kept as well."""
    monkeypatch.setattr(rows, "WORTH", 0)
    monkeypatch.setenv("SWIFTLIKE_CACHE", str(tmp_path / "cache"))
    families.save("llava", tmp_path / "model")
    families.picture(60, 40).save(tmp_path / "a.png")
    write(tmp_path, range(8))
    return tmp_path


def write(folder: Path, numbers: Any, answer: str = "It is") -> None:
    made = [{"query": f"What is {n}?", "response": f"{answer} {n}.", "rejected_response": "No."} for n in numbers]
    made[1] |= {"query": "<image>What is it?", "images": ["a.png"]}
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))


def read(folder: Path, *words: str) -> tuple[Data, str]:
    argv = ["--model", str(folder / "model"), "--dataset", str(folder / "rows.jsonl")]
    argv += [] if "--template" in words else ["--template", "chatml"]
    run = seeded(build_run(load("rlhf"), [*argv, *words], {})[0])
    run = run.replace("test", gradient_accumulation_steps=1)
    data = read_data(run, open_checkpoint(run, weights=False), loss_card(run))
    return data, made_of(run, data)["data"]


def entries(folder: Path) -> list[Path]:
    return [path for path in (folder / "cache" / "rows").iterdir() if path.is_dir()]


def test_a_second_start_finds_the_same(folder: Path, said: Said) -> None:
    first, digest = read(folder)
    lines = list(said.lines)
    assert not said.again
    said.lines.clear()
    second, again = read(folder, "--beta", "0.7", "--learning_rate", "1e-6", "--dataset_num_proc", "2")
    assert said.again
    assert [line.replace(" (from cache)", "") for line in said.lines] == lines
    assert (again, second.pictures) == (digest, True)
    assert [group.origin for group in second.val] == [group.origin for group in first.val]
    assert [path.name for path in entries(folder)] == [second.train.folder.name]


CHANGES = {
    "rows": lambda folder: write(folder, range(8), "It was"),
    "more rows": lambda folder: write(folder, range(9)),
    "picture": lambda folder: families.picture(80, 40).save(folder / "a.png"),
    "tokenizer": lambda folder: change(folder / "model" / "tokenizer_config.json", model_max_length=77),
    "seed": ("--seed", "7"),
    "split": ("--dataset_test_ratio", "0.4"),
    "draw": ("--train_dataset_sample", "3"),
    "template": ("--template", "vicuna"),
    "system": ("--system", "Be kind."),
    "length": ("--max_length", "900"),
    "cut": ("--truncation_strategy", "left"),
    "kind": ("--rlhf_type", "kto"),
    "every row": ("--load_from_cache_file", "false"),
    "columns": ("--columns", '{"query": "prompt"}'),
}


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_is_seen(change: Any, folder: Path, said: Said) -> None:
    read(folder)
    if callable(change):
        change(folder)
    read(folder, *(() if callable(change) else change))
    assert not said.again
    read(folder, *(() if callable(change) else [word for word in change if change[0] != "--load_from_cache_file"]))
    assert said.again


def test_flags_of_an_objective_count_where_it_looks_at_scores(folder: Path, said: Said) -> None:
    ranked = ({"prompt": f"What is {n}?", "completions": ["One.", "Two."], "scores": [1, n % 2]} for n in range(9))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ranked))
    words = ("--rlhf_type", "exo", "--loss_type", "exo-pref", "--tie_policy")
    second, dropped = read(folder, *words, "second")[0].train, read(folder, *words, "drop")[0].train
    assert not said.again
    assert len(second.decided) == len(second) == len(dropped) > len(dropped.decided) > 0


BROKEN = {
    "cut": lambda entry: os.truncate(entry / "ids", 10),
    "gone": lambda entry: (entry / "span_at").unlink(),
    "unsaid": lambda entry: (entry / "entry.json").unlink(),
    "half": lambda entry: (entry / "entry.json").write_text('{"made"'),
    "empty": lambda entry: (entry / "entry.json").write_text("{}"),
    "other": lambda entry: (entry / "more").write_text("x"),
}


@pytest.mark.parametrize("harm", BROKEN.values(), ids=BROKEN)
def test_a_broken_entry_is_made_again(harm: Any, folder: Path, said: Said) -> None:
    digest = read(folder)[1]
    harm(entries(folder)[0])
    assert read(folder)[1] == digest
    assert not said.again
    assert read(folder)[1] == digest
    assert said.again


def test_what_a_killed_run_left_is_not_used(folder: Path, said: Said) -> None:
    digest = read(folder)[1]
    whole = entries(folder)[0]
    whole.rename(whole.with_name(f"{whole.name}.partial"))
    assert read(folder)[1] == digest
    assert not said.again
    assert entries(folder) == [whole]


def test_a_cache_that_cannot_be_written(folder: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "file").write_text("")
    digest = read(folder)[1]
    monkeypatch.setenv("SWIFTLIKE_CACHE", str(folder / "file" / "cache"))
    assert read(folder)[1] == digest
    assert any("not kept" in line and "cannot make the cache folder" in line for line in said.lines)
    monkeypatch.setenv("SWIFTLIKE_CACHE", str(folder / "cache"))
    monkeypatch.setattr(kept, "_ROOM", 1 << 50)
    said.lines.clear()
    assert read(folder)[1] == digest
    assert said.again  # what is there needs no room
    assert read(folder, "--load_from_cache_file", "false")[1] == digest
    assert any("nearly full" in line for line in said.lines)


def test_data_that_changes_while_it_is_read_is_not_kept(
    folder: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = rows.prepare

    def late(*args: Any) -> Any:
        made = real(*args)
        write(folder, range(8), "It was")
        return made

    monkeypatch.setattr(rows, "prepare", late)
    read(folder)
    assert entries(folder) == []
    assert any("changed while it was read" in line for line in said.lines)


def test_small_data_is_not_kept(folder: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "WORTH", 1 << 20)
    read(folder)
    read(folder)
    assert not said.again
    assert not (folder / "cache" / "rows").exists()


def test_bad_rows_stop_every_start(folder: Path) -> None:
    for words in ((), (), ("--load_from_cache_file", "false")):
        with pytest.raises(UserError, match="7 training rows cannot be used"):
            read(folder, "--max_length", "12", *words)


def test_rows_left_out_are_said_again(folder: Path, said: Said) -> None:
    words = ("--max_length", "55", "--on_bad_row", "drop", "--dataset_test_ratio", "0")
    with (folder / "rows.jsonl").open("a") as file:
        file.write(json.dumps({"query": "long " * 50, "response": "Yes.", "rejected_response": "No."}) + "\n")
    read(folder, *words)
    lines = list(said.lines)
    assert any("rows left out" in line for line in lines)
    said.lines.clear()
    read(folder, *words)
    assert [line.replace(" (from cache)", "") for line in said.lines] == lines


def start(folder: Path, results: Any) -> None:
    try:
        data, digest = read(folder)
        results.put((digest, str(data.train.folder)))
    except UserError as error:
        results.put(str(error))


@pytest.mark.parametrize("answer", ["It is", ""], ids=["good", "bad"])
def test_processes_of_one_machine_wait_for_the_first(answer: str, folder: Path) -> None:
    """All get the same files, or all the same error: nobody waits for ever."""
    if not answer:
        (folder / "rows.jsonl").write_text('{"query": "a", "response": "", "rejected_response": "b"}\n' * 9)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    ranks = [context.Process(target=start, args=(folder, results)) for _ in range(3)]
    for one in ranks:
        one.start()
    (found,) = {results.get(timeout=120) for _ in ranks}
    for one in ranks:
        one.join()
    assert found[1] == str(entries(folder)[0]) if answer else "empty answer" in found and not entries(folder)


def test_old_and_large_entries_go(tmp_path: Path) -> None:
    now = time.time()
    for name, days in (("new", 0), ("week", 7), ("month", 40), ("mine", 50), ("theirs.partial", 0.5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_bytes(b"x" * 100)
        os.utime(tmp_path / name, (now - 86400 * days,) * 2)
    cache.trim(tmp_path, 1000, 30, tmp_path / "mine")
    assert {path.name for path in tmp_path.iterdir()} == {"new", "week", "mine", "theirs.partial"}
    cache.trim(tmp_path, 150, 30, tmp_path / "mine")
    assert {path.name for path in tmp_path.iterdir()} == {"new", "mine", "theirs.partial"}
    shutil.rmtree(tmp_path / "new")
    cache.trim(tmp_path, 150, 30, tmp_path / "mine")
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "theirs.partial"}
