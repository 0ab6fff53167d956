"""`swiftlike convert` as the pipeline that the command line calls."""

from __future__ import annotations

import gzip
import json
import logging
import os
import random
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from swiftlike.args.convert import ConvertArgs
from swiftlike.args.data import DataArgs
from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run
from swiftlike.data.load import load_rows
from swiftlike.pipelines.convert import run

GOLDEN = Path(__file__).parents[2] / "golden"
SHARED = Path(os.environ.get("SWIFTLIKE_SHARED") or Path(__file__).parents[4] / "shared") / "data"
PAIR = {"prompt": "Name a fruit.", "chosen": " A plum.", "rejected": " A saw."}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder, and a logger that the test can read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("swiftlike"), "propagate", True)
    logging.getLogger("swiftlike").setLevel(logging.INFO)


def convert(*words: Any, **values: Any) -> int:
    return run(Run("convert", {"convert": ConvertArgs(from_to_input=[str(word) for word in words], **values)}))


def put(name: str, records: Iterable[Any]) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in records))
    return path


def get(path: str | Path) -> list[Any]:
    data = Path(path).read_bytes()
    text = (gzip.decompress(data) if str(path).endswith(".gz") else data).decode()
    return (
        json.loads(text) if ".json" in str(path) and ".jsonl" not in str(path) else list(map(json.loads, lines(text)))
    )


def lines(text: str) -> list[str]:
    assert text.endswith("\n")
    return text.splitlines()


# -- where things are written -----------------------------------------------------------------------------------------


def test_the_default_output_lies_beside_the_input() -> None:
    put("data/pairs.json", [PAIR, PAIR])
    assert convert("exo_preference", "swift_v2", "data/pairs.json") == 0
    expected = {"query": "Name a fruit.", "response": " A plum.", "rejected_response": " A saw."}
    assert get("data/pairs_swift_v2.jsonl") == [expected] * 2


def test_a_folder_becomes_a_folder_with_every_split() -> None:
    """EXO's folder name; a file of another type becomes JSON lines."""
    for name in ("train.json", "test.json", "deep/more.jsonl"):
        put(f"hh/{name}", [PAIR | {"prompt": name}])
    put("hh/table.csv", ["prompt,chosen,rejected", "q,a,b"])
    assert convert("exo-preference", "exo-reward", "hh/") == 0
    found = {str(path.relative_to("hh_p2r")): get(path) for path in Path("hh_p2r").rglob("*.json*")}
    row = {"completions": [" A plum.", " A saw."], "rewards": [1, 0]}
    expected = {name: [{"prompt": name} | row] for name in ("train.json", "test.json", "deep/more.jsonl")}
    assert found == expected | {"table.jsonl": [{"prompt": "q", "completions": ["a", "b"], "rewards": [1, 0]}]}
    assert convert("exo_preference", "swift_v4", "hh", output="new") == 0
    assert len(list(Path("new").rglob("*.json*"))) == 4


@pytest.mark.parametrize("name", ["out.jsonl", "out.json", "deep/out.jsonl.gz", "out.json.gz"])
def test_files_of_every_type_hold_the_same(name: str) -> None:
    put("a.jsonl", [PAIR])
    put("b.jsonl", [PAIR | {"prompt": "é中"}])
    assert convert("auto", "swift_v2", "a.jsonl", "b.jsonl", output=name) == 0
    assert [row["query"] for row in get(name)] == ["Name a fruit.", "é中"]
    assert len(load_rows(DataArgs(dataset=[name], dataset_test_ratio=0.0), "pair", 0).train) == 2
    assert [path.name for path in Path(name).parent.iterdir() if path.name.startswith(".")] == []


def test_an_output_that_exists_is_kept() -> None:
    put("a.jsonl", [PAIR])
    put("out.jsonl", ["precious"])
    with pytest.raises(UserError, match=r"exists already(.|\n)*out\.jsonl(.|\n)*--overwrite"):
        convert("auto", "trl", "a.jsonl", output="out.jsonl")
    assert Path("out.jsonl").read_text() == "precious\n"
    assert convert("auto", "trl", "a.jsonl", output="out.jsonl", overwrite=True) == 0
    assert len(get("out.jsonl")) == 1


@pytest.mark.parametrize(
    ("words", "values", "reason"),
    [
        (("a.jsonl",), {"output": "a.jsonl"}, "one of the files that are read"),
        (("link.jsonl",), {"output": "a.jsonl"}, "one of the files that are read"),
        (("deep",), {"output": "deep"}, "one of the files that are read"),
        (("deep",), {"output": "deep/new.jsonl"}, "lies in a folder that is read"),
        (("a.jsonl", "a.jsonl"), {}, "2 times"),
        (("a.jsonl",), {"output": "a.parquet"}, "ends in .jsonl"),
        (("a.jsonl", "deep"), {"output": "folder"}, "ends in .jsonl"),
        (("a.jsonl",), {"output": "folder.json"}, "is a folder"),
    ],
)
def test_no_input_is_ever_overwritten(words: tuple[str, ...], values: dict[str, str], reason: str) -> None:
    put("a.jsonl", [PAIR])
    put("deep/b.jsonl", [PAIR])
    Path("link.jsonl").symlink_to("a.jsonl")
    Path("folder.json").mkdir()
    with pytest.raises(UserError, match=reason):
        convert("auto", "trl", *words, **values, overwrite=True)
    assert (get("a.jsonl"), get("deep/b.jsonl")) == ([PAIR], [PAIR])


# -- what is asked for ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "values", "reason"),
    [
        (("auto", "trl"), {}, "needs a format to read, a format to write, and data"),
        (("auto", "sharegbt", "a.jsonl"), {}, "unknown format .sharegbt.; did you mean .sharegpt."),
        (("auto", "auto", "a.jsonl"), {}, "to read, not to write"),
        (("exo_sft", "exo_preference", "a.jsonl"), {}, "it has single answers, exo_preference needs pairs"),
        (("exo_generated", "exo_reward", "a.jsonl"), {}, "exo_generated can become apo_sample, exo_generated"),
        (("apo_sample", "sft", "a.jsonl"), {}, "with --scores also the others"),
        (("auto", "trl", "a.jsonl"), {"sampling": True}, "--sampling go with"),
        (("exo_generated", "apo_sample", "a.jsonl"), {"scores": ["a.jsonl"]}, "--scores goes with"),
        (("auto", "trl", "gone.jsonl"), {}, "no such file"),
    ],
)
def test_what_cannot_be_done_says_what_can(words: tuple[str, ...], values: dict[str, Any], reason: str) -> None:
    put("a.jsonl", [PAIR])
    with pytest.raises(UserError, match=reason):
        convert(*words, **values)


def test_columns_are_renamed_before_the_format_is_looked_for() -> None:
    put("a.jsonl", [{"ask": "q", "good": "a", "bad": "b"}])
    columns = {"ask": "prompt", "good": "chosen", "bad": "rejected"}
    assert convert("exo_preference", "exo_reward", "a.jsonl", columns=columns, output="out.jsonl") == 0
    assert get("out.jsonl") == [{"prompt": "q", "completions": ["a", "b"], "rewards": [1, 0]}]


def test_columns_that_trade_names() -> None:
    put("a.jsonl", [{"prompt": "q", "chosen": "b", "rejected": "a"}])
    columns = {"chosen": "rejected", "rejected": "chosen"}
    assert convert("auto", "exo_preference", "a.jsonl", columns=columns, output="out.jsonl") == 0
    assert get("out.jsonl") == [{"prompt": "q", "chosen": "a", "rejected": "b"}]


def test_a_sample_is_the_one_that_training_draws() -> None:
    put("a.jsonl", [PAIR | {"prompt": str(n)} for n in range(30)])
    assert convert("auto", "exo_preference", "a.jsonl#7", output="out.jsonl") == 0
    drawn = load_rows(DataArgs(dataset=["a.jsonl#7"], dataset_test_ratio=0.0), "pair", 42).train
    assert [row["prompt"] for row in get("out.jsonl")] == [row.prompt.messages[0].content for row in drawn]


def test_registered_sets_keep_their_own_reading() -> None:
    assert convert("auto", "hh", "demo#3") == 0
    assert len(get("demo_hh.jsonl")) == 3


# -- accounts ---------------------------------------------------------------------------------------------------------


def test_everything_that_is_not_written_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    same = PAIR | {"rejected": PAIR["chosen"]}
    tie = {"prompt": "q", "completions": ["a", "b"], "rewards": [1, 1]}
    marked = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    chat = {"prompt": marked, "chosen": [{"role": "assistant", "content": "a"}], "rejected": "b", "id": 7}
    path = put("a.jsonl", [PAIR, "{", same, same, tie, chat, {"query": "q", "response": "a"}])
    assert convert("auto", "exo_preference", path, output="out.jsonl") == 0
    assert len(get("out.jsonl")) == 2
    for text in (
        "a.jsonl: read 7, wrote 2",
        "dropped 4: 2 chosen equals rejected (first: a.jsonl:3:",
        "1 not JSON (first: a.jsonl:2:",
        "1 no pair in it (first: a.jsonl:7:",
        "left out 1: 1 a tie: all scores are equal (first: a.jsonl:5)",
        "not carried over: system prompts (1 rows), column id",
        "2 rows of exo_preference in out.jsonl, without 4 that cannot be used",
    ):
        assert text in caplog.text


def test_a_bad_row_can_stop_it_and_leaves_nothing() -> None:
    path = put("a.jsonl", [PAIR, "{", PAIR])
    with pytest.raises(UserError, match=r"a\.jsonl:2: not JSON"):
        convert("auto", "trl", path, on_bad_row="error")
    assert [entry.name for entry in Path().iterdir()] == ["a.jsonl"]


def test_nothing_written_is_a_failure_that_is_explained(caplog: pytest.LogCaptureFixture) -> None:
    put("a.jsonl", [{"left": "x"}])
    assert convert("auto", "trl", "a.jsonl") == 1
    assert "keys seen: left" in caplog.text
    assert convert("exo_reward", "trl", "a.jsonl") == 1
    assert "not exo_reward: no column prompt; its columns are left" in caplog.text
    assert not Path("a_trl.jsonl").exists()


def peak_of(suffix: str, count: int) -> int:
    """Most bytes held while that many rows of a kilobyte, every fifth of them bad, are converted."""
    path = Path(f"{count}{suffix}")
    with gzip.open(path, "wt", compresslevel=1) if suffix.endswith("gz") else path.open("w") as file:
        file.write("prompt,chosen,rejected\n" if suffix == ".csv" else "")
        for number in range(count):
            row = (f"question {number} " + "x" * 1000, "same" if number % 5 == 0 else "other", "same")
            row_as_object = json.dumps(dict(zip(("prompt", "chosen", "rejected"), row, strict=True)))
            file.write((",".join(row) if suffix == ".csv" else row_as_object) + "\n")
    tracemalloc.start()
    assert convert("exo_preference", "exo_reward", path, output=f"{count}_out.jsonl", overwrite=True) == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    with Path(f"{count}_out.jsonl").open() as file:
        assert sum(1 for _ in file) == count * 4 // 5
    return peak


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".csv"])
def test_memory_does_not_grow_with_the_file(suffix: str) -> None:
    """The lower of two measurements: what Python fills once, as caches of its own, is no growth."""
    assert min(peak_of(suffix, 3_000) for _ in range(2)) - peak_of(suffix, 300) < 2_700 * 20


# -- two inputs -------------------------------------------------------------------------------------------------------


def golden(file: str, name: str) -> list[dict[str, Any]]:
    return [case for case in json.loads((GOLDEN / file).read_text())["cases"] if case["loss"] == name]


@pytest.mark.parametrize("case", golden("apo_data.json", "apo_convert"), ids=lambda case: case["name"])
@pytest.mark.parametrize("apart", [True, False])
def test_golden_answers_meet_samples_as_in_apo(case: dict[str, Any], apart: bool) -> None:
    item = case["inputs"]["item"]
    answers = {key: text for key, text in item.items() if key.startswith("sample_")}
    if apart:
        rest = {key: text for key, text in item.items() if key not in answers}
        put("golden.json", [rest, rest | {"query_id": "nobody"}])
        put("samples.json", [{"query_id": str(item["query_id"]), "query": item["query"]} | answers])
    else:
        put("golden.json", [item])
    assert convert("apo_golden", "apo_comparison", "golden.json", samples=["samples.json"] if apart else []) == 0
    expected = [row | {"query_id": str(item["query_id"])} for row in case["outputs"]["data"]]
    assert get("golden_text_scores.json") == expected


def test_one_random_sample_per_query(caplog: pytest.LogCaptureFixture) -> None:
    put("golden.jsonl", [{"query_id": n, "query": f"q{n}", "golden": "g"} for n in range(20)])
    many = [{"query_id": n, "query": f"q{n}"} | {f"sample_{k}": f"s{k}" for k in range(4)} for n in range(1, 25)]
    put("samples.jsonl", many)
    words, values = ("apo_golden", "apo_comparison", "golden.jsonl"), {"samples": ["samples.jsonl"], "sampling": True}
    assert convert(*words, **values) == 0
    found = get("golden_sampled_text_scores.json")
    assert [row["text"][0] for row in found] == [f"q{n}<sep>g" for n in range(1, 20)]
    assert "left out 1: 1 no samples for the query (first: golden.jsonl:1)" in caplog.text
    assert "samples of 5 queries found no partner (first: query_id 20)" in caplog.text
    chance = random.Random(42)
    drawn = [chance.choice([f"s{k}" for k in range(4)]) for _ in range(19)]
    assert [row["text"][1].partition("<sep>")[2] for row in found] == drawn
    assert convert(*words, **values, seed=7, output="other.json") == 0
    assert get("other.json") != found


@pytest.mark.parametrize("case", golden("apo_data.json", "apo_rejection"), ids=lambda case: case["name"])
def test_the_best_of_n_is_chosen_as_in_apo(case: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    put("samples.jsonl", case["inputs"]["data"])
    put("scores.jsonl", case["inputs"]["scores"])
    assert convert("apo_sample", "sft", "samples.jsonl", scores=["scores.jsonl"], output="out.json") == 0
    assert get("out.json") == case["outputs"]["data"]
    left = len(case["inputs"]["data"]) - len(case["outputs"]["data"])
    assert f"left out {left}: " in caplog.text
    trained = load_rows(DataArgs(dataset=["out.json"], dataset_test_ratio=0.0), "completion", 0).train
    assert [row.completions[0].messages[0].content for row in trained] == [
        row["target"] for row in case["outputs"]["data"]
    ]


def test_scored_samples_become_rankings_and_pairs() -> None:
    put("samples.jsonl", [{"query_id": 1, "query": "q", "sample_0": "a", "sample_1": "b", "sample_2": " "}])
    put("scores.jsonl", [{"1:sample_0": 0.5}, {"1:sample_1": 1.5}, {"1:sample_2": 9.0}, {"2:sample_0": 1.0}])
    assert convert("apo_sample", "exo_reward", "samples.jsonl", scores=["scores.jsonl"], output="rank.jsonl") == 0
    assert get("rank.jsonl") == [{"prompt": "q", "completions": ["a", "b"], "rewards": [0.5, 1.5]}]
    assert convert("apo_sample", "swift_v2", "samples.jsonl", scores=["scores.jsonl"], output="pair.jsonl") == 0
    assert get("pair.jsonl") == [{"query": "q", "response": "b", "rejected_response": "a"}]


@pytest.mark.parametrize(
    ("flag", "record", "reason"),
    [
        ("scores", {"sample_0": 0.5}, r"bad\.jsonl:1: not a score: 'sample_0' is not query_id:answer_key"),
        ("scores", {"1:sample_0": "good"}, r"bad\.jsonl:1: not a score: 1:sample_0 is 'good'"),
        ("scores", "{", r"bad\.jsonl:1: not JSON"),
        ("samples", {"query": "q", "sample_0": "a"}, r"bad\.jsonl:1: no query_id: its columns are query, sample_0"),
    ],
)
def test_a_second_input_must_be_whole(flag: str, record: Any, reason: str) -> None:
    put("bad.jsonl", [record])
    put("a.jsonl", [{"query_id": 1, "query": "q", "golden": "g", "sample_0": "a"}])
    words = ("apo_sample", "sft") if flag == "scores" else ("apo_golden", "apo_comparison")
    with pytest.raises(UserError, match=reason):
        convert(*words, "a.jsonl", **{flag: ["bad.jsonl"]})


def test_rows_get_ids_and_keep_those_they_have() -> None:
    put("a.jsonl", [PAIR, PAIR])
    put("b.jsonl", [PAIR])
    assert convert("auto", "apo_golden", "a.jsonl", "b.jsonl", output="golden.jsonl") == 0
    assert [row["query_id"] for row in get("golden.jsonl")] == ["1", "2", "3"]
    put("zero.jsonl", [{"query_id": 0, "query": "q", "golden": 1}, {"query_id": 0, "query": "q", "golden": "g"}])
    assert convert("apo_golden", "apo_golden", "zero.jsonl", output="one.jsonl") == 0
    assert [row["query_id"] for row in get("one.jsonl")] == ["0", "0"]
    put("s.jsonl", [{"query_id": "x:1", "query": "q", "sample_0": "same", "sample_1": "same"}])
    assert convert("apo_sample", "exo_generated", "s.jsonl", output="gen.jsonl") == 0
    assert get("gen.jsonl") == [{"prompt": "q", "completions": ["same", "same"]}]
    assert convert("auto", "apo_sample", "s.jsonl", output="t.jsonl") == 0
    assert get("t.jsonl") == get("s.jsonl")


# -- published data ---------------------------------------------------------------------------------------------------

needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no data at {SHARED}: set SWIFTLIKE_SHARED")
PAIR_FORMATS = ("swift_v2", "swift_v4", "trl", "sharegpt", "chat_pair")


@needs_data
@pytest.mark.parametrize("form", PAIR_FORMATS)
def test_published_conversations_there_and_back(form: str) -> None:
    data = SHARED / "dpo_en_demo" / "dpo_en_demo.json"
    assert convert("sharegpt", form, data, output="there.jsonl") == 0
    assert convert(form, "sharegpt", "there.jsonl", output="back.json") == 0
    assert get("back.json") == get(data)


@needs_data
@pytest.mark.parametrize("form", ["swift_v2", "swift_v4", "trl", "sharegpt"])
def test_published_verdicts_there_and_back(form: str) -> None:
    data = SHARED / "kto_en_demo" / "kto_en_demo.json"
    assert convert("kto", form, data, output="there.jsonl") == 0
    assert convert(form, "kto", "there.jsonl", output="back.json") == 0
    assert get("back.json") == get(data)


@needs_data
def test_published_rankings() -> None:
    data = SHARED / "alpaca_eval_ranked" / "ranked.jsonl.gz"
    assert convert("exo_reward", "apo_comparison", data, output="apo.json.gz") == 0
    assert convert("apo_comparison", "exo_reward", "apo.json.gz", output="back.jsonl") == 0
    keys = ("prompt", "completions", "rewards")
    assert get("back.jsonl") == [{key: row[key] for key in keys} for row in get(data)]
    assert convert("exo_reward", "swift_v2", data, output="pairs.jsonl") == 0
    for pair, row in zip(get("pairs.jsonl"), get(data), strict=True):
        best, worst = max(row["rewards"]), min(row["rewards"])
        assert row["rewards"][row["completions"].index(pair["response"])] == best > worst
        assert row["rewards"][row["completions"].index(pair["rejected_response"])] == worst


@needs_data
@pytest.mark.parametrize(
    "form", [*PAIR_FORMATS, "hh", "exo_preference", "exo_reward", "apo_comparison", "kto", "sft", "exo_sft"]
)
def test_pictures_are_found_from_the_new_place(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the pictures paths stay relative, elsewhere they become absolute; both can be trained on."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "images").symlink_to(SHARED / "vl_pairs" / "images")
    (home / "pairs.jsonl").write_bytes((SHARED / "vl_pairs" / "pairs.jsonl").read_bytes())
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(home)
    assert convert("swift_v2", form, "pairs.jsonl", output="new.jsonl") == 0
    assert convert("swift_v2", form, "pairs.jsonl", output="../away/new.jsonl") == 0
    monkeypatch.chdir(tmp_path / "away")
    for path in (home / "new.jsonl", Path("new.jsonl")):
        found = load_rows(DataArgs(dataset=[str(path)], dataset_test_ratio=0.0), "completion", 0).train
        assert len(found) == 25
        assert all(Path(str(image.source)).is_file() for row in found for image in row.prompt.images)
    assert get(home / "new.jsonl")[0]["images"] == ["images/bridge_boats.jpg"]
    assert get("new.jsonl")[0]["images"] == [str(home / "images" / "bridge_boats.jpg")]


@needs_data
@pytest.mark.parametrize("form", [*PAIR_FORMATS, "hh", "exo_preference"])
def test_pictures_there_and_back(form: str, tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to(SHARED / "vl_pairs" / "images")
    data = Path("pairs.jsonl")
    data.write_bytes((SHARED / "vl_pairs" / "pairs.jsonl").read_bytes())
    assert convert("swift_v2", form, data, output="there.jsonl") == 0
    assert convert(form, "swift_v2", "there.jsonl", output="back.jsonl") == 0
    assert get("back.jsonl") == get(data)
