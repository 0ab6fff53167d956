"""`swiftlike score` in pieces, as real processes: the same rows however the work is split, and after a kill."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from swiftlike.cli.app import perform
from swiftlike.core.errors import UserError

from .runs import free_port, train, write_rows

RULE = """
import time

def brevity(prompt, answer, row):
    time.sleep(row.get("wait", 0))
    return None if "none" in answer else -len(answer)
"""
BROKEN = {2: "no json", 9: '{"nothing": 1}', 15: '{"prompt": "only"}'}  # lines of the data, one in each of three pieces


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """19 groups of answers and three broken rows; ties, blank answers and answers without a score among them."""
    said = ["yes", "no way", " ", "none", "yes it is"]
    rows = [
        {"prompt": f"Question {n}?", "completions": [f"{text}{'!' * (n % 3)}" for text in said[: 2 + n % 4]]}
        for n in range(18)
    ]
    rows.append({"prompt": "A tie?", "completions": ["one", "two"]})
    lines = [json.dumps(row) for row in rows]
    for number, text in BROKEN.items():
        lines.insert(number, text)
    folder = tmp_path_factory.mktemp("answers")
    (folder / "rules.py").write_text(RULE)
    (folder / "answers.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder / "answers.jsonl"


@pytest.fixture(scope="module")
def judge_model(tmp_path_factory: pytest.TempPathFactory, pairs: Path) -> Path:
    """A reward model, two steps old."""
    flags = {"model_type": "tiny-llama", "dataset": pairs, "max_steps": 2, "save_strategy": "steps", "save_steps": 2}
    return train("rlhf", tmp_path_factory.mktemp("rm"), rlhf_type="rm", **flags).checkpoint


def start(*words: Any, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "swiftlike", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **env},
    )


def finished(process: subprocess.Popen[str], code: int = 0) -> str:
    text, _ = process.communicate(timeout=240)
    assert process.returncode == code, text
    return text


def by_rule(answers: Path, output: Path, write: str) -> list[Any]:
    rule = f"{answers.parent / 'rules.py'}:brevity"
    return ["score", answers, "--rule", rule, "--write", write, "--output", output]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("write", ["rewards", "pairs"])
def test_one_two_and_four_pieces_are_the_same(tmp_path, answers, write, capfd: pytest.CaptureFixture[str]) -> None:
    """Bytes of output and errors, and the account, which the last one gives of all."""
    made, told = {}, {}
    for count in (1, 2, 4):
        folder = tmp_path / str(count)
        words = [str(word) for word in by_rule(answers, folder / "out.jsonl", write)[1:]]
        for shard in range(count):
            piece = ["--shard", str(shard), "--num_shards", str(count)] if count > 1 else []
            assert perform("score", [*words, *piece]) == 0
        text = capfd.readouterr().err.partition("read 22 rows")[2].replace(str(folder), "")
        told[count] = re.sub(r"^\d\d:\d\d:\d\d ", "", text, flags=re.MULTILINE)
        made[count] = files(folder)
    assert made[1] == made[2] == made[4]
    assert len(set(told.values())) == 1
    assert "wrong 3" in told[1]
    assert set(made[1]) == {"out.jsonl", "out.errors.jsonl"}
    errors = [json.loads(line)["origin"] for line in made[1]["out.errors.jsonl"].splitlines()]
    assert errors == [f"{answers}:{number + 1}" for number in BROKEN]


@pytest.mark.slow
def test_four_processes_at_once(tmp_path: Path, answers: Path) -> None:
    output, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    words = by_rule(answers, output, "pairs")
    running = [start(*words, "--shard", k, "--num_shards", 4) for k in range(4)]
    told = "".join(finished(one) for one in running)
    assert "read 22 rows" in told
    assert perform("score", [str(word) for word in by_rule(answers, whole, "pairs")[1:]]) == 0
    assert output.read_bytes() == whole.read_bytes()
    assert (tmp_path / "out.errors.jsonl").read_bytes() == (tmp_path / "whole.errors.jsonl").read_bytes()


@pytest.mark.slow
def test_rewards_of_a_model_are_the_same_to_the_last_digit(tmp_path, answers, judge_model) -> None:
    """Also where a process of a machine takes a piece, and where rows were scored before."""
    words = ["score", answers, "--ckpt_dir", judge_model, "--output"]
    for name, pieces in {"one": [[]], "two": [["--shard", k, "--num_shards", 2] for k in (1, 0)]}.items():
        for piece in pieces:
            assert perform("score", [str(word) for word in (*words[1:], tmp_path / f"{name}.jsonl", *piece)]) == 0
    finished(start(*words, tmp_path / "three.jsonl", NPROC_PER_NODE="3", MASTER_PORT=str(free_port())))
    one, *others = ((tmp_path / f"{name}.jsonl").read_bytes() for name in ("one", "two", "three"))
    assert others == [one, one]
    assert len({reward for line in one.splitlines() for reward in json.loads(line)["rewards"]}) > 20


@pytest.mark.slow
def test_a_killed_piece_is_run_again_alone(tmp_path: Path, answers: Path) -> None:
    """Its rows wait; the others do not. It goes on from its journal and then puts all together."""
    lines = answers.read_text().splitlines()
    slow = [
        json.dumps({**json.loads(line), "wait": 0.3}) if line.startswith('{"prompt": "Q') else line for line in lines
    ]
    data = tmp_path / "answers.jsonl"
    data.write_text("".join(f"{line}\n" for line in [*lines[:11], *slow[11:]]))
    output, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    rule = f"{answers.parent / 'rules.py'}:brevity"
    words = ["score", data, "--rule", rule, "--write", "pairs", "--output"]
    second = [*words, output, "--shard", 1, "--num_shards", 2]
    killed = start(*second)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and killed.poll() is None:
        part = next(tmp_path.glob("out.jsonl.*/*.part"), None)
        if part is not None and part.read_bytes().count(b"\n") > 3:
            break
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait(60)
    (folder,) = tmp_path.glob("out.jsonl.*")
    (part,) = folder.iterdir()
    lines_kept = [line for line in part.read_bytes().splitlines(keepends=True)[1:] if line.endswith(b"\n")]
    done = sum("error" not in json.loads(line)["value"] for line in lines_kept)  # errors are tried again
    assert 1 <= done < 11
    assert "is written when all 2 shards" in finished(start(*words, output, "--shard", 0, "--num_shards", 2))
    assert not output.exists()
    assert f"{done} rows were scored before" in finished(start(*second))
    assert perform("score", [str(word) for word in (*words[1:], whole)]) == 0
    assert output.read_bytes() == whole.read_bytes()
    assert (tmp_path / "out.errors.jsonl").read_bytes() == (tmp_path / "whole.errors.jsonl").read_bytes()
    before = output.read_bytes()
    assert "is there already" in finished(start(*second))
    assert output.read_bytes() == before


def test_a_damaged_piece_and_foreign_ones(tmp_path: Path, answers: Path) -> None:
    words = [str(word) for word in by_rule(answers, tmp_path / "out.jsonl", "rewards")]

    def shard(index: int) -> int:
        return perform(words[0], [*words[1:], "--shard", str(index), "--num_shards", "2"])

    assert shard(0) == 0
    (folder,) = tmp_path.glob("out.jsonl.*")
    first = folder / "shard-00000-of-00002.jsonl"
    good = first.read_bytes()
    first.write_bytes(good[:-9])
    with pytest.raises(UserError, match=f"{first}:11: not JSON"):
        shard(1)
    assert not (tmp_path / "out.jsonl").exists()
    first.unlink()
    assert shard(0) == 0
    assert (tmp_path / "out.jsonl").exists()
    assert first.read_bytes() == good
    (tmp_path / "out.jsonl").unlink()
    (folder / "shard-00002-of-00005.jsonl").touch()
    text = finished(start(*words, "--shard", 1, "--num_shards", 2), code=2)
    assert "of 2: 0, 1" in text
    assert "of 5: 2" in text


def test_pieces_of_other_data_or_settings_are_not_taken(tmp_path: Path, answers: Path) -> None:
    rows = [{"prompt": f"q{n}", "completions": ["a", "bb"]} for n in range(4)]
    data, output = write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl"
    words = [str(word) for word in by_rule(answers, output, "rewards")[2:]]

    def shard(index: int, *flags: str) -> None:
        assert perform("score", [str(data), *words, *flags, "--shard", str(index), "--num_shards", "2"]) == 0

    shard(0)
    write_rows(data, [*rows[:3], rows[3] | {"completions": ["a", "ccc"]}])
    shard(1)
    assert not output.exists()
    shard(0)
    assert json.loads(output.read_text().splitlines()[3])["rewards"] == [-1, -3]
    output.unlink()
    shard(1, "--image_root", "elsewhere")
    assert not output.exists()
