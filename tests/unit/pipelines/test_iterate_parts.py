"""What decides a stage's identity, what is missed before the first stage, and how processes of a stage end."""

import json
import queue
import sys
from pathlib import Path

import pytest

from swiftlike.core.declare import Stage
from swiftlike.core.devices import VISIBLE
from swiftlike.core.errors import UserError
from swiftlike.core.parent import PARENT
from swiftlike.pipelines.iterate import ray, state
from swiftlike.pipelines.iterate.ahead import outside
from swiftlike.pipelines.iterate.jobs import Job, Local, Log, jobs_of, listen
from swiftlike.pipelines.iterate.machine import Machine
from swiftlike.pipelines.iterate.recipe import PROGRAM, Recipe, Step

SAMPLE = Stage(output="rows.jsonl", flag="output", sharded=True)


def step(root: Path, *words: str, kind: str = "sample", stage: Stage = SAMPLE) -> Step:
    folder = root / "one"
    return Step(
        key="one", place=(), kind=kind, words=words, folder=folder, output=folder / "rows.jsonl", inputs=(), stage=stage
    )


def recipe(root: Path, *words: str, **values: str) -> Recipe:
    return Recipe(path=Path("recipe.yaml"), root=root, steps=(step(root, *words, **values),))


def test_the_folder_of_all_stages_is_no_part_of_the_identity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    def words(name: str) -> str:
        one = recipe(
            Path(name), "sample", "--output", f"{name}/one/rows.jsonl", f"p={name}", f"{name}/a#3", f"{name}s/b",
        )  # fmt: skip
        return state.parts_of(one, one.steps[0])["words"]

    first = json.loads(words("out"))
    assert first == ["sample", "--output", "{root}/one/rows.jsonl", "p={root}", "{root}/a#3", "outs/b"]
    assert json.loads(words("elsewhere"))[:-1] == first[:-1]


def test_missing_files_are_named_with_their_flag_and_texts_are_no_files(tmp_path: Path) -> None:
    there = tmp_path / "there.jsonl"
    there.write_text("{}\n")
    found = outside(
        recipe(
            tmp_path / "out", "score", "--dataset", f"{there}#3", "gone.jsonl#2", f"{tmp_path}/out/one/rows.jsonl",
            "--regex", "answer.jsonl", "--prompt", "write to a.py or b.py", "--rule", "rules.py:judge",
        )
    )  # fmt: skip
    assert found == ["stage one: --dataset: there is no gone.jsonl", "stage one: --rule: there is no rules.py"]


def test_pieces_are_numbered_over_machines_and_share_the_cards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VISIBLE, "4,5,6,7")
    jobs = jobs_of(step(tmp_path), ("sample",), {"A": "1"}, 2, Machine(rank=1, count=3))
    assert [job.shard for job in jobs] == [2, 3]
    assert [job.env for job in jobs] == [{"A": "1", VISIBLE: "4,6"}, {"A": "1", VISIBLE: "5,7"}]
    assert jobs[1].words == ("sample", "--shard", "3", "--num_shards", "6")


def test_ray_places_cards_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VISIBLE, "2")  # as Ray sets it for a task
    show = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['A'], '_SWIFTLIKE_PARENT' in os.environ)"
    env = ray._placed(Job(words=(), env={VISIBLE: "0,1", "A": "1"}))
    said = list(ray.execute(PROGRAM, [sys.executable, "-c", show], env, str(tmp_path)))
    assert said == ["2 1 True", 0]
    assert PARENT == "_SWIFTLIKE_PARENT"


def test_what_is_left_behind_does_not_hold_a_stage_open(tmp_path: Path) -> None:
    """A process that ends while a child of it keeps its output open."""
    leave = "import subprocess, sys; subprocess.Popen(['sleep', '60']); print('done', flush=True)"
    log, said = Log(tmp_path / "log.jsonl"), []
    with (tmp_path / "lock").open("w") as lock:
        one = step(tmp_path, kind=PROGRAM)
        Local(lock.fileno())(one, [Job(words=(sys.executable, "-c", leave))], log, said.append)
        assert "done" in said
        with pytest.raises(UserError, match="exit code 3"):
            Local(lock.fileno())(one, [Job(words=(sys.executable, "-c", "exit(3)"))], log, said.append)


def test_all_that_was_said_is_read(tmp_path: Path) -> None:
    lines: queue.SimpleQueue[tuple[int | None, str]] = queue.SimpleQueue()
    for number in range(3):
        lines.put((number, f"line {number}"))
    said: list[str] = []
    listen(lines, lambda: False, Log(tmp_path / "log.jsonl"), said.append)
    assert said == ["line 0", "line 1", "line 2"]
