"""Formats of `swiftlike convert`: what is written reads back, as far as the format has a place for it."""

from __future__ import annotations

import dataclasses as dc
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swiftlike.args.convert import ConvertArgs
from swiftlike.core.flags import Flags
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.formats import (
    ANY,
    FORMATS,
    GENERATED,
    GIVES,
    Format,
    fitted,
    format_of,
    lost,
    read_as,
    spoken,
    targets,
)
from swiftlike.datasets_registry.kinds import LeftOut, kind_of
from swiftlike.datasets_registry.readers import scored_sample
from swiftlike.datasets_registry.row import Image, Message, Row, Turns
from swiftlike.datasets_registry.shapes import to_row

GOLDEN = Path(__file__).parents[2] / "golden"
WRITABLE = [one for one in FORMATS.values() if one.write is not None]


def written(row: Row, target: Format, source: Format = ANY) -> list[dict[str, Any]]:
    assert target.write is not None
    return [json.loads(json.dumps(target.write(spoken(one, source, target)))) for one in fitted(row, target)]


def read(record: dict[str, Any], form: Format) -> Row:
    return to_row(read_as(form, record))[0]


def converted(record: dict[str, Any], source: Format, target: Format) -> list[dict[str, Any]]:
    return written(read(record, source), target, source)


def cases(file: str, name: str) -> list[dict[str, Any]]:
    return [case for case in json.loads((GOLDEN / file).read_text())["cases"] if case["loss"] == name]


# -- rows of every shape ----------------------------------------------------------------------------------------------

WORDS = st.text('abc é\n中"\\', min_size=1, max_size=12).map(str.strip).filter(bool)


@st.composite
def rows(draw: st.DrawFn, kind: str, plain: bool = False) -> Row:
    """Rows without anything that some formats have no place for when `plain`."""
    turns = [Message("user", draw(WORDS))]
    for _ in range(draw(st.integers(0, 2))):
        turns = [Message("user", draw(WORDS)), Message("assistant", draw(WORDS)), *turns]
    if not plain and draw(st.booleans()):
        turns.insert(0, Message("system", draw(WORDS)))
    size = {"pair": 2, "ranked": 3}.get(kind, 1)
    answers = draw(st.lists(WORDS, min_size=size, max_size=size, unique=True))
    images: tuple[Image, ...] = ()
    if draw(st.booleans()):
        turns[-1] = Message("user", "<image>" + turns[-1].content)
        images = (Image("pictures/a.png"),)
    row = Row(Turns(tuple(turns), images), tuple(Turns((Message("assistant", one),)) for one in answers))
    if kind == "labelled":
        return dc.replace(row, label=draw(st.booleans()))
    scores = draw(st.lists(st.floats(-9, 9), min_size=size, max_size=size)) if kind == "ranked" else []
    return dc.replace(row, scores=tuple(scores))


ALL_KINDS = ("pair", "ranked", "labelled", "completion")
SAME_KIND = [(form, kind) for form in WRITABLE for kind in form.kinds if kind in ALL_KINDS]


@pytest.mark.parametrize(("form", "kind"), SAME_KIND, ids=lambda one: getattr(one, "name", one))
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_what_is_written_reads_back(form: Format, kind: str, data: st.DataObject) -> None:
    row = data.draw(rows(kind, plain="system prompts" not in form.keeps))
    assert lost(row, ANY, form) == []
    (record,) = written(row, form)
    found = read(record, form)
    assert spoken(found, form, FORMATS["swift_v4"]) == row
    assert format_of(record) in (form, ANY)


CHAT = [form for form in WRITABLE if "pair" in form.kinds]


@pytest.mark.parametrize("first", CHAT, ids=lambda form: form.name)
@pytest.mark.parametrize("second", CHAT, ids=lambda form: form.name)
@settings(max_examples=15, deadline=None)
@given(row=rows("pair", plain=True))
def test_there_and_back_gives_the_same_record(first: Format, second: Format, row: Row) -> None:
    (before,) = written(row, first)
    (there,) = converted(before, first, second)
    (after,) = converted(there, second, first)
    if first.name == "exo_preference" and second.name == "hh" and "Human:" not in before["prompt"]:
        assert after["prompt"] == f"\n\nHuman: {before['prompt']}\n\nAssistant:"  # HH has only transcripts
    else:
        assert after == before


@pytest.mark.parametrize("source", FORMATS)
def test_every_possible_pair_of_formats_works(source: str) -> None:
    """And what is impossible by kind is refused row by row."""
    record = SAMPLES[source]
    form = FORMATS[source]
    row = read(record, form)
    for target in WRITABLE:
        if GENERATED in form.kinds:
            assert (target.name in targets(form.kinds)) == (GENERATED in target.kinds)
            continue
        if target.name in targets([kind_of(row)]):
            assert converted(record, form, target)
        else:
            with pytest.raises((BadRow, LeftOut)):
                converted(record, form, target)


SAMPLES: dict[str, dict[str, Any]] = {
    "tldr": {
        "info": {"subreddit": "cats", "title": "Mine", "post": "It sat."},
        "summaries": [{"text": " sat"}, {"text": "stood "}],
        "choice": 1,
    },
    "hh": {
        "chosen": "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Fruit?\n\nAssistant: Plum.",
        "rejected": "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Fruit?\n\nAssistant: Saw.",
    },
    "apo_comparison": {"text": ["q<sep>a", "q<sep>b", "q<sep>c"], "scores": [0.1, 0.9, 0.5], "type": "apo"},
    "apo_golden": {"query_id": 7, "query": "q", "golden": "a"},
    "apo_sample": {"query_id": "7", "query": "q", "sample_0": "a", "sample_1": "a"},
    "exo_reward": {"prompt": "q", "completions": ["a", "b"], "rewards": [0.5, -1]},
    "exo_generated": {"prompt": "q", "completions": ["a", ""]},
    "exo_preference": {"prompt": "q", "chosen": " a", "rejected": " b"},
    "exo_sft": {"prompt": "q", "chosen": " a"},
    "swift_v2": {"query": "q", "response": "a", "rejected_response": "b", "history": [["x", "y"]], "system": "s"},
    "swift_v4": {
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        "rejected_response": "b",
        "margin": 0.5,
    },
    "trl": {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
    },
    "chat_pair": {
        "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}],
    },
    "kto": {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "label": True},
    "sft": {"query": "q", "response": "a"},
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_record_becomes_itself(name: str) -> None:
    form, record = FORMATS[name], SAMPLES[name]
    if form.write is None or name == "exo_generated":
        return
    row = dc.replace(read(record, form), prompt_id=str(record.get("query_id", "")))
    expected = record | ({"query_id": str(record["query_id"])} if "query_id" in record else {})
    assert [form.write(spoken(row, form, form))] == [expected]


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form.sign])
def test_signs_tell_formats_apart(name: str) -> None:
    assert format_of(SAMPLES[name]).name == name


# -- the texts of the papers' scripts ---------------------------------------------------------------------------------


def test_hh_becomes_text_as_in_exo() -> None:
    (record,) = converted(SAMPLES["hh"], FORMATS["hh"], FORMATS["exo_preference"])
    prompt = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Fruit?\n\nAssistant:"
    assert record == {"prompt": prompt, "chosen": " Plum.", "rejected": " Saw."}
    one = {key: f"\n\nHuman: Fruit?\n\nAssistant: {text}" for key, text in (("chosen", "Plum."), ("rejected", "Saw."))}
    (record,) = converted(one, FORMATS["hh"], FORMATS["exo_sft"])
    assert record == {"prompt": "\n\nHuman: Fruit?\n\nAssistant:", "chosen": " Plum."}
    ragged = {
        key: f"\n\nHuman:  Fruit? \n\nAssistant: {text}" for key, text in (("chosen", "Plum. "), ("rejected", "\nS"))
    }
    (record,) = converted(ragged, FORMATS["hh"], FORMATS["exo_preference"])
    assert record == {"prompt": "\n\nHuman:  Fruit? \n\nAssistant:", "chosen": " Plum. ", "rejected": " \nS"}


def test_tldr_becomes_text_as_in_exo() -> None:
    (record,) = converted(SAMPLES["tldr"], FORMATS["tldr"], FORMATS["exo_preference"])
    prompt = "SUBREDDIT: r/cats\nTITLE: Mine\nPOST: It sat.\nTL;DR:"
    assert record == {"prompt": prompt, "chosen": " stood", "rejected": " sat"}
    filtered = {"subreddit": "cats", "title": "Mine", "post": "It sat.", "summary": "sat"}
    assert converted(filtered, FORMATS["tldr"], FORMATS["exo_sft"]) == [{"prompt": prompt, "chosen": " sat"}]
    with pytest.raises(BadRow, match="news"):
        read(SAMPLES["tldr"] | {"info": {"article": "x"}}, FORMATS["tldr"])


@pytest.mark.parametrize("case", cases("exo_data.json", "pref_to_rw"))
def test_preferences_become_rewards_as_in_exo(case: dict[str, Any]) -> None:
    found = [converted(row, FORMATS["exo_preference"], FORMATS["exo_reward"]) for row in case["inputs"]["rows"]]
    assert [row for part in found for row in part] == case["outputs"]["rows"]


def test_text_prompts_stay_as_they_are_between_text_formats() -> None:
    prompt = "\n\nHuman: q\n\nAssistant: "
    record = {"text": [f"{prompt}<sep>a", f"{prompt}<sep> b"], "scores": [1.0, 0.0]}
    (pair,) = converted(record, FORMATS["apo_comparison"], FORMATS["exo_preference"])
    assert pair == {"prompt": prompt, "chosen": "a", "rejected": " b"}
    (chat,) = converted(record, FORMATS["apo_comparison"], FORMATS["swift_v2"])
    assert chat == {"query": "q", "response": "a", "rejected_response": "b"}


def test_scores_rank_samples_and_blank_ones_have_no_part() -> None:
    record = {"query_id": "1", "query": "q", "sample_0": "a", "sample_1": " ", "sample_2": "c", "hh_best": "h"}
    ranked = scored_sample(record, {"sample_0": 0.5, "sample_1": 9.0, "sample_2": 0.7, "hh_best": 8.0})
    row = to_row(ranked)[0]
    assert [one.messages[0].content for one in row.completions] == ["a", "c"]
    assert (row.scores, row.prompt_id) == ((0.5, 0.7), "1")
    with pytest.raises(LeftOut):
        scored_sample(record, {"sample_1": 1.0})


# -- what has no place ------------------------------------------------------------------------------------------------


def pair(prompt: list[Message], **more: Any) -> Row:
    return Row(Turns(tuple(prompt)), tuple(Turns((Message("assistant", one),)) for one in "ab"), **more)


USER, BOT = Message("user", "q"), Message("assistant", "a")


@pytest.mark.parametrize(
    ("row", "target", "reason"),
    [
        (pair([USER, Message("tool", "t")]), "swift_v2", "do not take turns"),
        (pair([USER, Message("tool", "t")]), "exo_preference", "no turns of a tool"),
        (pair([Message("user", "x\n\nHuman: y"), BOT, USER]), "exo_preference", "would read differently"),
        (pair([Message("user", "<sep>")]), "apo_comparison", "<sep>"),
        (dc.replace(pair([USER]), prompts=(Turns((USER,)), Turns((Message("user", "r"),)))), "swift_v2", "different"),
        (dc.replace(pair([USER]), prompts=(Turns((USER,)), Turns((Message("user", "r"),)))), "chat_pair", "first user"),
        (
            dc.replace(pair([USER]), prompts=(Turns((USER,), (Image("a"),)), Turns((USER,), (Image("b"),)))),
            "trl",
            "pictures of their own",
        ),
        (dc.replace(pair([USER]), completions=(Turns((BOT, Message("tool", "t"), BOT)),) * 2), "sharegpt", "3 turns"),
        (Row(Turns((USER,)), (Turns((BOT,)),)), "apo_sample", "a single answer"),
    ],
)
def test_rows_that_a_format_cannot_hold_are_refused(row: Row, target: str, reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        written(row, FORMATS[target])


@pytest.mark.parametrize(
    ("row", "target", "gone"),
    [
        (pair([Message("system", "s"), USER]), "exo_preference", ["system prompts"]),
        (pair([Message("system", ""), USER]), "swift_v2", ["empty system prompts"]),
        (pair([USER], margin=0.5), "sharegpt", ["margins"]),
        (pair([USER], tools="[]"), "hh", ["tool definitions"]),
        (pair([USER, dc.replace(BOT, trained=False), USER]), "swift_v2", ["loss marks"]),
        (pair([USER]), "sft", ["rejected answers"]),
        (pair([Message("user", " q"), BOT, USER]), "exo_preference", ["white space around turns"]),
        (pair([Message("user", " q")]), "exo_preference", []),
        (pair([USER], scores=(1.0, 0.5)), "trl", ["scores"]),
        (pair([USER], prompt_id="3", mark="apo"), "swift_v4", ["query ids", "types"]),
        (pair([USER], margin=0.5, tools="[]"), "swift_v4", []),
    ],
)
def test_what_is_not_carried_over_is_named(row: Row, target: str, gone: list[str]) -> None:
    assert lost(row, ANY, FORMATS[target]) == gone


def test_pictures_of_the_rejected_answer_only_fit_into_v4() -> None:
    prompts = (Turns((Message("user", "<image>"),), (Image("a"),)), Turns((Message("user", "<image>"),), (Image("b"),)))
    row = dc.replace(pair([]), prompt=prompts[0], prompts=prompts)
    (record,) = written(row, FORMATS["swift_v4"])
    assert (record["images"], record["rejected_images"]) == (["a"], ["b"])
    assert read(record, FORMATS["swift_v4"]) == row


def test_a_missing_column_is_named() -> None:
    with pytest.raises(BadRow, match="not exo_reward: no column rewards; its columns are prompt, completions"):
        read({"prompt": "q", "completions": ["a"]}, FORMATS["exo_reward"])


def test_help_names_every_format() -> None:
    from swiftlike.cli.commands.convert import COMMAND

    text = Flags(COMMAND).by_name["from_to_input"][0].help
    named = text.partition("Formats: ")[2].partition(";")[0].replace(" (read only)", "").split(", ")
    assert sorted(named) == sorted([*FORMATS, ANY.name])
    assert ConvertArgs().on_bad_row == "drop"


def test_kinds_are_complete() -> None:
    assert {kind for form in FORMATS.values() for kind in form.kinds} == set(GIVES)
    assert all(kind == gives[0] for kind, gives in GIVES.items())
