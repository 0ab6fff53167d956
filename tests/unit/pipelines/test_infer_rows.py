"""Which rows are answered: all of a validation set, or what training held out, bad ones in their places."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from swiftlike.cli.commands import load
from swiftlike.cli.layers import build_run
from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run
from swiftlike.data.load import load_rows
from swiftlike.pipelines.infer.records import answered, scored
from swiftlike.pipelines.infer.rows import Asked, digest, of_training, own_answer, read_rows

Rows = list[dict[str, Any]]
PAIR = {"query": "Name a fruit.", "response": "A plum.", "rejected_response": "A saw."}


def asked(*words: str) -> Run:
    return build_run(load("infer"), ["--model_type", "tiny-llama", *words], {})[0]


def write(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path, *words: str, **saved: Any) -> list[Asked]:
    return read_rows(asked("--val_dataset", str(path), *words), saved)


def test_every_kind_of_row_gives_its_prompt_and_keeps_its_answer(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    rows: Rows = [
        {"query": "q"},
        {"query": "q", "response": "r"},
        PAIR,
        {"messages": turns},
        {"messages": [*turns, {"role": "assistant", "content": "a"}]},
        {"query": "q", "response": "good", "label": True},
        {"query": "q", "response": "bad", "label": False},
        {"prompt": "q", "completions": ["worse", "best"], "rewards": [1, 2]},
        {"query": "q", "response": "same", "rejected_response": "same"},
        {"query": "q", "response": ""},
    ]
    found = read(write(tmp_path / "rows.jsonl", rows))
    assert [one.index for one in found] == list(range(len(rows)))
    assert [one.error for one in found] == [""] * len(rows)
    answers = [own_answer(one.row) for one in found if one.row]
    assert answers == [None, "r", "A plum.", None, "a", "good", None, "best", "same", ""]
    record = answered(found[3], None)
    assert record["messages"] == turns
    assert (record["response"], record["labels"], record["images"]) == (None, None, [])


def test_a_bad_row_keeps_its_place_and_says_why(tmp_path: Path) -> None:
    Pillow.new("RGB", (30, 20)).save(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:45])
    (tmp_path / "text.png").write_text("hello")
    rows: Rows = [{"query": "<image>q", "images": [f"{name}.png"]} for name in ("good", "none", "cut", "text", "good")]
    path = write(tmp_path / "rows.jsonl", [*rows, {"query": ""}, {"strange": 1}])
    with path.open("a") as file:
        file.write("{broken\n")
    found = read(path)
    assert [one.row is not None for one in found] == [True, False, False, False, True, False, False, False]
    assert [one.error.split(": ")[1] for one in found if one.error] == [
        "image is missing",
        "image is broken",
        "image is unreadable",
        "empty prompt",
        "unknown layout",
        "not JSON",
    ]
    assert all(one.error.startswith(f"{path}:{one.index + 1}: ") for one in found if one.error)
    record = answered(found[1], None)
    assert record["error"] == found[1].error
    assert answered(found[0], None)["images"] == [str(tmp_path / "good.png")]


def test_a_file_of_no_known_layout_is_refused_as_a_whole(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its layout is not known"):
        read(write(tmp_path / "rows.jsonl", [{"strange": 1}] * 3))


@pytest.mark.parametrize("seed", [42, 7])
def test_what_is_held_out_of_a_data_set_is_what_training_held_out(tmp_path: Path, seed: int) -> None:
    path = write(tmp_path / "pairs.jsonl", [PAIR | {"query": f"Fruit {n}?"} for n in range(50)])
    run = asked("--dataset", f"{path}#40", "--dataset_test_ratio", "0.2")
    held = load_rows(run.data, "pair", seed).val
    found = read_rows(run, {"seed": seed})
    assert [one.row.prompt for one in found if one.row] == [row.prompt for row in held]
    assert len(found) == 8
    by_flag = read_rows(run.replace("test", dataset_seed=seed), {"seed": 1})
    assert [one.origin for one in by_flag] == [one.origin for one in found]


def test_the_data_of_the_training_run(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", [PAIR | {"query": f"Fruit {n}?"} for n in range(50)])
    other = write(tmp_path / "other.jsonl", [PAIR])
    (tmp_path / "adapter_config.json").write_text("{}")
    run = asked("--ckpt_dir", str(tmp_path), "--load_dataset_config", "true")
    saved = {"dataset": [str(path)], "val_dataset": [], "dataset_test_ratio": 0.1, "seed": 3}
    assert len(read_rows(of_training(run, saved), saved)) == 5
    named = saved | {"val_dataset": [str(other)]}
    assert len(read_rows(of_training(run, named), named)) == 1
    with pytest.raises(UserError, match="held no rows out"):
        of_training(run, saved | {"dataset_test_ratio": 0.0})
    with pytest.raises(UserError, match="does not say what it was trained on"):
        of_training(run, {})


@pytest.mark.parametrize("flag", ["--val_dataset_sample", "--show_dataset_sample"])
def test_a_sample_of_the_rows_is_in_their_order(tmp_path: Path, flag: str) -> None:
    path = write(tmp_path / "pairs.jsonl", [PAIR | {"query": f"Fruit {n}?"} for n in range(20)])
    found = read(path, flag, "6")
    places = [int(one.origin.rpartition(":")[2]) for one in found]
    assert len(places) == 6
    assert places == sorted(places)
    assert [one.index for one in found] == list(range(6))


def test_nothing_to_answer_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "one.jsonl", [PAIR])
    with pytest.raises(UserError, match="there is no row to answer"):
        read_rows(asked("--dataset", str(path)), {})
    with pytest.raises(UserError, match="rows are not repeated; there are 1"):
        read_rows(asked("--val_dataset", f"{path}#5"), {})


def test_the_digest_tells_data_apart(tmp_path: Path) -> None:
    rows = [PAIR | {"query": f"Fruit {n}?"} for n in range(3)]
    one = digest(read(write(tmp_path / "a.jsonl", rows)))
    assert digest(read(write(tmp_path / "a.jsonl", rows))) == one
    for other in (rows[:2], rows[::-1], [rows[0] | {"response": "x"}, *rows[1:]]):
        assert digest(read(write(tmp_path / "a.jsonl", other))) != one


def test_scores_stand_beside_their_answers_and_can_be_trained_on(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [PAIR])
    (one,) = read(path)
    record = scored(one, [1.5, -2.0])
    assert (record["completions"], record["rewards"], record["error"]) == (["A plum.", "A saw."], [1.5, -2.0], None)
    again = load_rows(asked("--dataset", str(write(tmp_path / "again.jsonl", [record] * 3))).data, "ranked", 42).train
    assert again[0].scores == (1.5, -2.0)
    assert [turns.messages[-1].content for turns in again[0].completions] == ["A plum.", "A saw."]
    half = scored(one, [1.5, "too long"])
    assert (half["rewards"], half["error"]) == ([1.5, None], "answer 2: too long")
