from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swiftlike.args.data import DataArgs
from swiftlike.core.errors import UserError
from swiftlike.data.load import draw, load_rows, mix
from swiftlike.data.stream import shuffled, stream_rows
from swiftlike.datasets_registry.row import Row

from .conftest import pair, picture

Args = Callable[..., DataArgs]
Write = Callable[..., Path]


def queries(rows: list[Row]) -> list[str]:
    return [row.prompt.messages[-1].content for row in rows]


@given(st.integers(1, 60), st.none() | st.integers(1, 200), st.floats(0, 1), st.integers(0, 9))
def test_sampling_keeps_its_promises(length: int, count: int | None, ratio: float, seed: int) -> None:
    train, val = draw(length, count, ratio, random.Random(seed))
    wanted = length if count is None else count
    assert not set(train) & set(val)
    assert len(set(val)) == len(val) or ratio >= 1
    if ratio >= 1:
        assert (train, len(val)) == ([], wanted)
        return
    held = max(int(min(length, wanted) * ratio), 1) if ratio > 0 and min(length, wanted) > 1 else 0
    assert (len(val), len(train)) == (held, wanted - held)
    times = Counter(train).values()
    assert max(times) - min(times) <= 1
    assert max(times) == 1 or len(times) == length - held


def test_all_rows_stay_in_order_and_repeats_are_whole_first() -> None:
    assert draw(5, None, 0.0, random.Random(1)) == ([0, 1, 2, 3, 4], [])
    assert draw(5, 5, 0.0, random.Random(1)) == ([0, 1, 2, 3, 4], [])
    train, _ = draw(3, 8, 0.0, random.Random(1))
    assert train[:6] == [0, 1, 2, 0, 1, 2]
    assert len(set(train[6:])) == 2
    few, _ = draw(100, 10, 0.0, random.Random(1))
    more, _ = draw(100, 20, 0.0, random.Random(1))
    assert more[:10] == few  # the first N of one permutation


def test_split_and_sample_of_a_file(args: Args, jsonl: Write) -> None:
    path = jsonl([pair(n) for n in range(40)])
    loaded = load_rows(args(f"{path}#60", dataset_test_ratio=0.1), "pair", 42)
    assert (len(loaded.train), len(loaded.val)) == (56, 4)
    assert not set(queries(loaded.train)) & set(queries(loaded.val))
    report = loaded.report.datasets[0]
    assert (report.asked, report.found, report.train, report.val, report.repeated) == (60, 40, 56, 4, 20)
    assert loaded.report.duplicates == 0
    assert loaded.train[0].origin.startswith(f"{path}:")
    again = load_rows(args(f"{path}#60", dataset_test_ratio=0.1), "pair", 42)
    assert (again.train, again.val) == (loaded.train, loaded.val)
    other = load_rows(args(f"{path}#60", dataset_test_ratio=0.1, dataset_seed=1), "pair", 42)
    assert other.val != loaded.val


def test_another_data_set_does_not_change_what_is_drawn(args: Args, jsonl: Write) -> None:
    first = jsonl([pair(n) for n in range(30)], "a.jsonl")
    second = jsonl([pair(n + 100) for n in range(30)], "b.jsonl")
    alone = load_rows(args(f"{second}#7"), "pair", 3).train
    assert load_rows(args(f"{first}#5", f"{second}#7"), "pair", 3).train[5:] == alone


def test_validation_data_of_its_own(args: Args, jsonl: Write) -> None:
    path, held = jsonl([pair(n) for n in range(10)]), jsonl([pair(n) for n in range(5)], "val.jsonl")
    loaded = load_rows(args(path, val_dataset=[f"{held}#3"], dataset_test_ratio=0.5), "pair", 1)
    assert (len(loaded.train), len(loaded.val)) == (10, 3)
    with pytest.raises(UserError, match="not repeated; there are 5"):
        load_rows(args(path, val_dataset=[f"{held}#6"]), "pair", 1)


def test_caps_on_rows_in_all(args: Args, jsonl: Write) -> None:
    path = jsonl([pair(n) for n in range(20)])
    data = args(path, dataset_test_ratio=0.5, train_dataset_sample=4, val_dataset_sample=2)
    loaded = load_rows(data, "pair", 1)
    assert (len(loaded.train), len(loaded.val)) == (4, 2)


def test_bad_rows_stop_the_run_with_their_lines(args: Args, jsonl: Write) -> None:
    rows = [
        pair(0),
        '{"query": ',
        pair(2),
        pair(3) | {"rejected_response": "good 3"},
        {**pair(4), "images": ["no.png"]},
    ]
    path = jsonl(rows)
    with pytest.raises(UserError) as caught:
        load_rows(args(path), "pair", 1)
    text = str(caught.value)
    assert f"{path}:2: not JSON: Expecting value at column 10" in text
    assert f"{path}:4: chosen equals rejected: 'good 3'" in text
    assert f"{path}:5: image is missing: {path.parent / 'no.png'}" in text
    loaded = load_rows(args(path, on_bad_row="drop"), "pair", 1)
    assert queries(loaded.train) == ["question 0", "question 2"]
    assert loaded.report.dropped == 3
    assert "bad 3: 1 not JSON" in loaded.report.as_text()


def test_equal_answers_are_no_verdicts(args: Args, jsonl: Write) -> None:
    path = jsonl([pair(0), pair(1, rejected_response="good 1")])
    loaded = load_rows(args(path, on_bad_row="drop"), "labelled", 1)
    assert [row.label for row in loaded.train] == [True, False]
    assert loaded.report.dropped == 1
    assert len(load_rows(args(path), "completion", 1).train) == 2  # an answer to imitate all the same


def test_only_drawn_rows_are_looked_at(args: Args, jsonl: Write) -> None:
    path = jsonl(["broken"] * 50 + [pair(n) for n in range(50)])
    places, _ = draw(100, 3, 0.0, random.Random(5))
    loaded = load_rows(args(f"{path}#3", on_bad_row="drop"), "pair", 5)
    assert loaded.report.dropped == sum(place < 50 for place in places)
    assert len(loaded.train) == sum(place >= 50 for place in places)


def test_an_unknown_layout_is_one_message_and_not_a_list_of_rows(args: Args, jsonl: Write) -> None:
    path = jsonl([{"foo": n, "choosen": "a"} for n in range(100)])
    with pytest.raises(UserError) as caught:
        load_rows(args(path, on_bad_row="drop"), "pair", 1)
    assert len(caught.value.problems) < 8
    assert "keys seen: foo, choosen" in str(caught.value)
    with pytest.raises(UserError, match=r"missing is a rejected answer \(rejected_response"):
        load_rows(args(jsonl([{"query": "q", "response": "a"}])), "pair", 1)


def test_nothing_left_is_an_error_that_says_why(args: Args, jsonl: Write) -> None:
    tie = {"prompt": "q", "completions": ["a", "b"], "rewards": [1, 1]}
    with pytest.raises(UserError, match=r"left out 2: 2 a tie: all scores are equal \(first: .*rows.jsonl:1\)"):
        load_rows(args(jsonl([tie, tie])), "pair", 1)
    with pytest.raises(UserError, match="no rows are left"):
        load_rows(args(jsonl([])), "pair", 1)


def test_columns_are_renamed_and_unknown_ones_refused(args: Args, jsonl: Write) -> None:
    path = jsonl([{"ask": "q", "good": "a", "bad": "b", "query": "not this"}])
    names = {"ask": "query", "good": "response", "bad": "rejected_response"}
    loaded = load_rows(args(path, columns=names), "pair", 1)
    assert queries(loaded.train) == ["q"]
    (mapping,) = loaded.report.datasets[0].mappings
    assert mapping.columns == {"ask": "prompt", "good": "chosen", "bad": "rejected"}
    with pytest.raises(UserError, match="no record has a column 'asc'; did you mean 'ask'"):
        load_rows(args(path, columns={**names, "asc": "system"}), "pair", 1)


def test_pictures_are_found_beside_the_file_under_the_root_or_in_the_working_folder(
    args: Args, jsonl: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, root = tmp_path / "here", tmp_path / "root"
    here.mkdir()
    root.mkdir()
    for folder, name in ((tmp_path, "beside.png"), (root, "rooted.png"), (here, "cwd.png")):
        picture(folder / name)
    monkeypatch.chdir(here)

    def source(name: str, **values: Any) -> str | bytes:
        path = jsonl([pair(1, images=[name])])
        return load_rows(args(path, **values), "pair", 1).train[0].prompt.images[0].source

    assert source("beside.png") == str(tmp_path / "beside.png")
    assert source("rooted.png", image_root=str(root)) == str(root / "rooted.png")
    assert Path(str(source("cwd.png"))).resolve() == here / "cwd.png"


def test_interleaving_stops_as_asked() -> None:
    short, long = ["a"] * 5, [f"b{n}" for n in range(50)]
    first = mix([short, long], [0.5, 0.5], "first_exhausted", 1)
    assert first.count("a") == 5
    assert first[-1] == "a"
    everything = mix([short, long], [0.5, 0.5], "all_exhausted", 1)
    assert [item for item in everything if item != "a"][:50] == long
    assert everything.count("a") > 20
    assert mix([short, long], [], "first_exhausted", 1) == short + long
    with pytest.raises(UserError, match="sum to 1"):
        mix([short, long], [0.5, 0.4], "first_exhausted", 1)
    with pytest.raises(UserError, match="2 data sets"):
        mix([short, long], [1.0], "first_exhausted", 1)


def test_streams(args: Args, jsonl: Write) -> None:
    path = jsonl([pair(n) for n in range(30)])
    rows = list(stream_rows(args(f"{path}#10", dataset_shuffle=False), "pair", 1))
    assert queries(rows) == [f"question {n}" for n in range(10)]
    mixed = list(stream_rows(args(path, shuffle_buffer_size=8), "pair", 1))
    assert sorted(queries(mixed)) == sorted(f"question {n}" for n in range(30))
    assert queries(mixed) != [f"question {n}" for n in range(30)]
    bad = jsonl([pair(1), "broken"], "bad.jsonl")
    stream = stream_rows(args(bad, dataset_shuffle=False), "pair", 1)
    assert next(stream).origin == f"{bad}:1"
    with pytest.raises(UserError, match=r"bad\.jsonl:2: not JSON"):
        next(stream)
    assert len(list(stream_rows(args(bad, on_bad_row="drop"), "pair", 1))) == 1


def test_interleaved_streams_start_again(args: Args, jsonl: Write) -> None:
    first, second = jsonl([pair(n) for n in range(3)], "a.jsonl"), jsonl([pair(n + 50) for n in range(20)], "b.jsonl")
    data = args(first, second, interleave_prob=[0.5, 0.5], stopping_strategy="all_exhausted", dataset_shuffle=False)
    seen = Counter(queries(list(stream_rows(data, "pair", 1))))
    assert all(seen[f"question {n + 50}"] >= 1 for n in range(20))
    assert seen["question 0"] > 1


def test_a_buffer_keeps_every_item() -> None:
    assert sorted(shuffled(iter(range(100)), 7, random.Random(1))) == list(range(100))
    assert list(shuffled(iter(()), 7, random.Random(1))) == []


def test_custom_sets_and_subsets_of_folders(args: Args, jsonl: Write, tmp_path: Path) -> None:
    jsonl([pair(n) for n in range(4)], "en.jsonl")
    info = tmp_path / "info" / "sets.json"
    info.parent.mkdir()
    info.write_text(json.dumps({"load-test-set": {"dataset_path": "..", "subsets": ["en"]}}))
    data = args("load-test-set#2", custom_dataset_info=[str(info)])
    assert len(load_rows(data, "pair", 1).train) == 2
    with pytest.raises(UserError, match="no subset 'fr'"):
        load_rows(args(f"{tmp_path}:fr"), "pair", 1)


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("dpo_en_demo/dpo_en_demo.json", "pair", 300),
        ("kto_en_demo/kto_en_demo.json", "labelled", 300),
        ("vl_pairs/pairs.jsonl", "pair", 25),
        ("alpaca_eval_ranked/ranked.jsonl.gz", "ranked", 800),
        ("alpaca_eval_ranked/ranked.jsonl.gz", "pair", 800),
        ("dpo_en_demo", "completion", 300),
        ("kto_en_demo", "completion", 150),
    ],
)
def test_real_data(args: Args, shared: Path, name: str, kind: str, count: int) -> None:
    loaded = load_rows(args(shared / name), kind, 42)
    assert len(loaded.train) == count
    assert loaded.report.dropped == 0
    assert all(row.prompt.messages[-1].role == "user" for row in loaded.train)
