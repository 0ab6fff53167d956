"""`swiftlike sample` without a model's weights: what is asked, by whom, and what is written."""

from __future__ import annotations

import itertools
import json
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from swiftlike.cli.commands import load
from swiftlike.cli.layers import build_run
from swiftlike.core.errors import UserError
from swiftlike.core.files import errors_file
from swiftlike.core.merge import Run
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.formats import FORMATS
from swiftlike.datasets_registry.kinds import LeftOut
from swiftlike.datasets_registry.shapes import to_row
from swiftlike.pipelines.answers import in_conversation, in_text
from swiftlike.pipelines.journal import Journal, digest
from swiftlike.pipelines.records import Account, read_records
from swiftlike.pipelines.sample import requests_of, seed_of
from swiftlike.pipelines.sample_rows import Reader, Sampled, Writer
from swiftlike.pipelines.serving import open_model
from swiftlike.pipelines.shards import shard_of

PAIR = {"query": "Name a fruit.", "response": "A plum.", "rejected_response": "A saw."}
CHAT = {"system": "Be brief.", "history": [["Hello.", "Hi!"]], "query": "Name a tree.", "response": "Oak."}
EXO = {"prompt": "\n\nHuman: Say hi.\n\nAssistant:", "chosen": " hi", "rejected": " no"}


def asked(place: Path, *flags: str, rows: Any = (PAIR,), env: Any = None) -> Run:
    """A run of the command over these rows."""
    data = place / "rows.jsonl"
    data.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in rows))
    words = [str(data), "--model_type", "tiny-llama", "--output", str(place / "out.jsonl"), *flags]
    return build_run(load("sample"), words, env or {})[0]


def written(run: Run, sampled: Sampled) -> list[dict[str, Any]]:
    template = open_model(run).checkpoint.template
    read = Reader(run, template)
    write = Writer(run, template, Path(run.sample.output).parent)
    return [write(read(one), sampled)[0] for one in read_records(run, None)]


# -- what is asked ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], [(4, 1.0)]),
        (["--temperature", "0.4", "--num_return_sequences", "5"], [(5, 0.4)]),
        (["--temperatures", "0.7", "1.2", "--add_zero_temperature", "true"], [(4, 0.7), (4, 1.2), (1, 0.0)]),
        (["--num_return_sequences", "1", "--temperature", "0"], [(1, 0.0)]),
    ],
)
def test_each_temperature_gives_n_answers_and_the_greedy_one_is_last(tmp_path, flags, expected) -> None:
    assert [(one.n, one.temperature) for one in requests_of(asked(tmp_path, *flags), tmp_path)] == expected


def test_a_model_that_samples_by_itself_keeps_its_temperature(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.6}')
    assert [one.temperature for one in requests_of(asked(tmp_path), tmp_path)] == [None]


def test_equal_answers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="would all be the same"):
        requests_of(asked(tmp_path, "--temperature", "0"), tmp_path)


def test_seeds_depend_on_every_number_and_on_nothing_else() -> None:
    keys = list(itertools.product((0, 1, 42), (0, 1), (0, 1, 12), (0, 1)))
    seeds = [seed_of(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert seeds == [seed_of(*key) for key in keys]
    assert all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize(
    ("flags", "env", "expected"),
    [
        ([], {}, (0, 1)),
        ([], {"DIST_NODE_RANK": "1", "DIST_NNODES": "3"}, (1, 3)),
        (["--shard", "2", "--num_shards", "4"], {"DIST_NODE_RANK": "1", "DIST_NNODES": "3"}, (2, 4)),
        ([], {"DIST_NODE_RANK": "1", "DIST_NNODES": "2", "RANK": "1", "WORLD_SIZE": "2"}, (3, 4)),
        ([], {"RANK": "1", "WORLD_SIZE": "2"}, (1, 2)),
    ],
)
def test_pieces_are_counted_over_machines_and_their_processes(tmp_path, flags, env, expected) -> None:
    assert shard_of(asked(tmp_path, *flags).shards, env) == expected


@pytest.mark.parametrize(
    "env",
    [
        {"DIST_NODE_RANK": "2", "DIST_NNODES": "2"},
        {"DIST_NNODES": "two"},
        {"DIST_NNODES": "2", "NNODES": "2", "WORLD_SIZE": "2"},
    ],
)
def test_pieces_that_do_not_exist_are_refused(tmp_path: Path, env: dict[str, str]) -> None:
    with pytest.raises(UserError):
        shard_of(asked(tmp_path).shards, env)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--temperature", "1", "--temperatures", "1"], "give one of them"),
        (["--shard", "0"], "go together"),
        (["--shard", "2", "--num_shards", "2"], "counted from 0"),
        (["--output", "out.txt"], "ends in .jsonl"),
        (["--add_system_message", "true"], "goes with --output_format aipo"),
        (["--prompt_min_length", "9", "--prompt_max_length", "8"], "no prompt would be left"),
        (["--max_length", "100"], "--max_length is for training"),
        (["--num_return_sequences", "0"], "num_return_sequences"),
    ],
)
def test_flags_that_do_not_fit_are_named(tmp_path: Path, flags: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        asked(tmp_path, *flags)


# -- what is written --------------------------------------------------------------------------------------------------

SAMPLED = Sampled(lists=((" one", "two</s>"), ("four",)), greedy="three")


def test_exo(tmp_path: Path) -> None:
    """A transcript stays the text it was; its answers begin with a space, which a chat template does not show."""
    first, second, third = written(asked(tmp_path, rows=(PAIR, CHAT, EXO)), SAMPLED)
    assert first == {"prompt": "Name a fruit.", "completions": [" one", "two</s>", "three", "four"]}
    assert second["prompt"] == "\n\nHuman: Hello.\n\nAssistant: Hi!\n\nHuman: Name a tree.\n\nAssistant:"
    assert third["prompt"] == EXO["prompt"]
    assert second["completions"] == third["completions"] == [" one", " two</s>", " three", " four"]


def test_a_template_that_shows_transcripts_leaves_the_space_to_the_model(tmp_path: Path) -> None:
    run = asked(tmp_path, "--template", "plain", "--include_gt", "true", rows=(EXO,))
    assert written(run, SAMPLED)[0]["completions"] == [" one", "two</s>", " hi", "three", "four"]


def test_a_blank_answer_spoils_no_row(tmp_path: Path) -> None:
    """It would not read back from a transcript, but the prompt does."""
    (record,) = written(asked(tmp_path, rows=(CHAT,)), Sampled(lists=(("", "\n\nHuman: me again"),)))
    assert record["completions"] == [" ", " \n\nHuman: me again"]


def test_apo(tmp_path: Path) -> None:
    first, second = written(
        asked(tmp_path, "--output_format", "apo", "--include_gt", "true", rows=(PAIR, {**PAIR, "query_id": "q:7"})),
        Sampled(lists=(("one", "two"),)),
    )
    samples = {"sample_0": "one", "sample_1": "two", "sample_2": "A plum."}
    assert first == {"query_id": "1", "query": "Name a fruit."} | samples
    assert second["query_id"] == "q:7"


def test_aipo_asks_the_first_turn_and_cleans_answers(tmp_path: Path) -> None:
    flags = ["--output_format", "aipo", "--include_gt", "true", "--add_system_message", "true"]
    first, second = written(asked(tmp_path, *flags, rows=(PAIR, CHAT)), SAMPLED)
    assert first["messages"] == [{"role": "system", "content": ""}, {"role": "user", "content": "Name a fruit."}]
    assert first["responses"] == ["one", "two", "A plum.", "three", "four"]
    assert (second["prompt"], second["gt"], second["messages"][0]["content"]) == ("Hello.", "Hi!", "Be brief.")
    assert second["prompt_with_chat_template"].endswith("<|im_start|>user\nHello.<|im_end|>\n<|im_start|>assistant\n")


def test_chat_keeps_conversation_and_pictures(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    row = {**CHAT, "query": "<image>What is it?", "images": ["a.png"]}
    (record,) = written(asked(tmp_path, "--output_format", "chat", rows=(row,)), SAMPLED)
    assert [turn["role"] for turn in record["prompt"]] == ["system", "user", "assistant", "user"]
    assert (record["completions"], record["images"]) == ([" one", "two</s>", "three", "four"], ["a.png"])


@pytest.mark.parametrize("output_format", ["exo", "chat", "aipo"])
def test_rows_with_rewards_beside_them_train_rankings(tmp_path: Path, output_format: str) -> None:
    for record in written(asked(tmp_path, "--output_format", output_format, rows=(PAIR, CHAT)), SAMPLED):
        row, mapping = to_row(record | {"rewards": [4, 3, 2, 1]})
        assert (mapping.kind, row.size) == ("ranked", 4)


def test_columns_are_copied(tmp_path: Path) -> None:
    (record,) = written(asked(tmp_path, "--keep_columns", "result", "other", rows=({**PAIR, "result": 4},)), SAMPLED)
    assert record["result"] == 4
    assert "other" not in record


# -- rows that are not asked ------------------------------------------------------------------------------------------


def read(run: Run) -> None:
    reader = Reader(run, open_model(run).checkpoint.template)
    for one in read_records(run, None):
        reader(one)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("no json", "not JSON"),
        ({"nothing": 1}, "unknown layout"),
        ({**PAIR, "query": "<image>?", "images": ["gone.png"]}, "image is missing"),
        ({"messages": [{"role": "user", "content": "q"}]}, "no answer of its own"),
    ],
)
def test_bad_rows_say_why(tmp_path: Path, row: Any, reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        read(asked(tmp_path, "--include_gt", "true", rows=(row,)))


def test_limits_count_the_prompt_without_its_template(tmp_path: Path) -> None:
    count = len(open_model(asked(tmp_path)).checkpoint.tokenizer("Name a fruit.", add_special_tokens=False).input_ids)
    read(asked(tmp_path, "--prompt_min_length", str(count), "--prompt_max_length", str(count)))
    for flags in (["--prompt_min_length", str(count + 1)], ["--prompt_max_length", str(count - 1)]):
        with pytest.raises(LeftOut, match="prompt_min_length"):
            read(asked(tmp_path, *flags))


# -- answers in texts and chats ---------------------------------------------------------------------------------------


def test_answers_of_a_transcript_keep_or_get_their_space() -> None:
    row, _ = to_row(EXO | {"completions": [" a", " b"], "rewards": [1, 0]}, "ranked")
    for spaced, answers in ((True, [" a", "b"]), (False, [" a", " b"])):
        text, gone = in_text(row, [" a", "b"], FORMATS["exo_generated"], spaced=spaced)
        assert [turns.messages[0].content for turns in text.completions] == answers
        assert (text.prompt.messages[0].content, gone) == (EXO["prompt"], [])
    assert [turns.messages[0].content for turns in in_conversation(row).completions] == ["a", "b"]


# -- the journal ------------------------------------------------------------------------------------------------------


def begin(place: Path, **settings: Any) -> Journal:
    return Journal(place / "out.jsonl", settings)


def test_results_are_found_again_and_errors_are_tried_again(tmp_path: Path) -> None:
    first = begin(tmp_path, seed=1)
    first.add(3, "aa", {"record": 1})
    first.add(0, "bb", {"error": "no"})
    first.add(5, "cc", {"record": "\ud800 half"})
    first.close()
    second = begin(tmp_path, seed=1)
    assert [second.has(3, "aa"), second.has(3, "other"), second.has(0, "bb"), second.has(1, "aa")] == [
        True,
        False,
        False,
        False,
    ]
    assert (second.get(3, "aa"), second.get(0, "bb"), second.get(5, "cc")["record"][1:]) == (
        {"record": 1},
        {"error": "no"},
        " half",
    )
    second.add(0, "bb", {"record": 2})
    assert second.get(0, "bb") == {"record": 2}
    second.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", [b'{"row": 2, "digest": "aa", "val', b"\0", b"{"])
def test_half_a_line_is_cut_off(tmp_path: Path, left: bytes) -> None:
    first = begin(tmp_path)
    first.add(1, "aa", {"record": 1})
    first.close()
    with first.path.open("ab") as file:
        file.write(left)
    second = begin(tmp_path)
    second.add(2, "aa", {"record": 2})
    second.close()
    third = begin(tmp_path)
    assert (third.get(1, "aa"), third.get(2, "aa")) == ({"record": 1}, {"record": 2})


def test_half_a_first_line_starts_over(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl.part").write_text('{"settings": {"se')
    begin(tmp_path, seed=1).close()
    begin(tmp_path, seed=1).close()


def test_other_settings_are_named(tmp_path: Path) -> None:
    first = begin(tmp_path, seed=1, model="m")
    first.add(1, "aa", {"record": 1})
    first.close()
    with pytest.raises(UserError, match="seed: 1 then, 2 now") as refused:
        begin(tmp_path, seed=2, model="m")
    assert "model" not in str(refused.value)
    Journal(tmp_path / "out.jsonl", {"seed": 2}, overwrite=True).close()
    begin(tmp_path, seed=2).close()


def test_without_a_result_other_settings_are_not_in_the_way(tmp_path: Path) -> None:
    first = begin(tmp_path, seed=1)
    first.add(1, "aa", {"error": "no such column"})
    kept = first.path.read_bytes()
    first.close()
    assert not first.path.exists()
    first.path.write_bytes(kept)  # as a kill leaves it
    second = begin(tmp_path, seed=2)
    assert second.get(1, "aa") is None
    second.close()


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    held = begin(tmp_path)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert "another process" in pool.apply(_begin_there, (tmp_path,))
    held.close()


def _begin_there(place: Path) -> str:
    try:
        begin(place)
    except UserError as error:
        return str(error)
    return ""


def test_digests_tell_rows_apart() -> None:
    rows = [PAIR, {**PAIR, "query": "?"}, {"image": b"\0"}, {"image": b"\1"}]
    assert len({digest(row) for row in rows}) == 4
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


def test_errors_go_to_a_file_beside_the_output(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl.gz"
    values = [{"record": {"a": 1}}, {"error": "bad: x", "origin": "d:2"}, {"left_out": "a tie", "origin": "d:3"}]
    account = Account()
    assert account.write(output, (value["record"] for value in values if account.add(value))) == 0
    assert errors_file(output).name == "out.errors.jsonl"
    assert json.loads(errors_file(output).read_text()) == {"origin": "d:2", "error": "bad: x"}
    assert account.as_lines(output)[0] == f"read 3 rows, wrote 1 to {output}"
    again = Account()
    assert again.write(output, (value["record"] for value in values[:1] if again.add(value))) == 0
    assert not errors_file(output).exists()
    assert Account().write(tmp_path / "none.jsonl", []) == 1
    assert not (tmp_path / "none.jsonl").exists()


def test_pieces_that_end_together_all_write_the_whole(tmp_path: Path) -> None:
    """Each has found all pieces complete; none takes away what another is writing."""
    output = tmp_path / "whole.jsonl"
    rows = [{"prompt": str(i), "completions": ["a", "b"]} for i in range(300)]
    with ThreadPoolExecutor(6) as pool:
        codes = list(pool.map(lambda _: Account().write(output, rows), range(60)))
    assert set(codes) == {0}
    assert [json.loads(line) for line in output.read_text().splitlines()] == rows
    assert list(tmp_path.iterdir()) == [output]
