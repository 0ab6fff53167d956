from __future__ import annotations

from typing import Any

import pytest

from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.columns import unknown_layout
from swiftlike.datasets_registry.row import Image, Row
from swiftlike.datasets_registry.shapes import to_row


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def bot(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def said(row: Row) -> tuple[str, ...]:
    """The conversation of a row as one text per prompt and completion: roles by letter."""

    def text(messages: Any) -> str:
        return " ".join(f"{message.role[0]}:{message.content}" for message in messages)

    prompts = [text(turns.messages) for turns in row.prompts or (row.prompt,)]
    return (*prompts, *(text(turns.messages) for turns in row.completions))


PAIR = ("u:q", "a:good", "a:bad")


@pytest.mark.parametrize(
    ("record", "expected", "name"),
    [
        ({"query": "q", "response": "good", "rejected_response": "bad"}, PAIR, "ms-swift pairs"),
        (
            {"query": "q", "response": "good", "rejected_response": "bad", "history": [["a", "b"]], "system": "s"},
            ("s:s u:a a:b u:q", "a:good", "a:bad"),
            "ms-swift pairs",
        ),
        ({"query": "q", "response": "good", "history": "[['a', 'b']]"}, ("u:a a:b u:q", "a:good"), "ms-swift answers"),
        ({"messages": [user("q"), bot("good")], "rejected_response": "bad"}, PAIR, "message pairs"),
        ({"messages": [user("q"), bot("good")], "rejected_response": [bot("bad")]}, PAIR, "message pairs"),
        ({"messages": [user("q"), bot("good")], "rejected_messages": [user("q"), bot("bad")]}, PAIR, "message pairs"),
        (
            {"messages": [user("q"), bot("good")], "rejected_messages": [user("other"), bot("bad")]},
            ("u:q", "u:other", "a:good", "a:bad"),
            "message pairs",
        ),
        ({"instruction": "q", "input": "", "output": "good"}, ("u:q", "a:good"), "alpaca answers"),
        ({"instruction": "q", "input": "x", "output": "good"}, ("u:q\nx", "a:good"), "alpaca answers"),
        (
            {"instruction": "q", "input": "x", "chosen": "good", "rejected": "bad"},
            ("u:q\nx", *PAIR[1:]),
            "alpaca pairs",
        ),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "good"}]},
            ("u:q", "a:good"),
            "ShareGPT answers",
        ),
        (
            {
                "conversations": [{"from": "human", "value": "q"}],
                "chosen": {"from": "gpt", "value": "good"},
                "rejected": [{"from": "gpt", "value": "bad"}],
            },
            PAIR,
            "ShareGPT pairs",
        ),
        (
            {"conversation": [{"human": "a", "assistant": "b"}, {"human": "q", "assistant": "good"}], "system": "s"},
            ("s:s u:a a:b u:q", "a:good"),
            "conversation answers",
        ),
        ({"prompt": "q", "chosen": "good", "rejected": "bad"}, PAIR, "prompt/answer pairs"),
        ({"prompt": [user("q")], "chosen": [bot("good")], "rejected": [bot("bad")]}, PAIR, "TRL conversational pairs"),
        ({"chosen": [user("q"), bot("good")], "rejected": [user("q"), bot("bad")]}, PAIR, "conversation pairs"),
        (
            {"prompt": "q", "chosen": [user("q"), bot("good")], "rejected": [user("q"), bot("bad")]},
            PAIR,
            "conversation pairs",
        ),
        ({"messages": [user("q"), bot("good")], "chosen": "good", "rejected": "bad"}, PAIR, "message pairs"),
        ({"prompt": "q", "completion": "good"}, ("u:q", "a:good"), "prompt/answer answers"),
        ({"prompt": "q", "response": "good", "chosen": "good", "rejected": "bad"}, PAIR, "prompt/answer pairs"),
        ({"question": "q", "preferred": "good", "dispreferred": "bad"}, PAIR, "question/answer pairs"),
        ({"problem": "q", "chosen_response": "good", "rejected_response": "bad"}, PAIR, "problem/answer pairs"),
        ({"prompt": "q", "completions": ["good", "bad"], "rewards": [0.5, -1]}, PAIR, "prompt/answer ranked answers"),
        ({"text": ["q<sep>good", "q<sep>bad"], "scores": [1, 0]}, PAIR, "APO ranked answers"),
        (
            {"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"},
            PAIR,
            "transcript pairs",
        ),
        (
            {"prompt": "\n\nHuman: a\n\nAssistant: b\n\nHuman: q\n\nAssistant:", "chosen": "good", "rejected": "bad"},
            ("u:a a:b u:q", "a:good", "a:bad"),
            "prompt/answer pairs",
        ),
    ],
)
def test_formats(record: dict[str, Any], expected: tuple[str, ...], name: str) -> None:
    row, mapping = to_row(record)
    assert said(row) == expected
    assert mapping.name == name
    assert set(mapping.columns) | set(mapping.unused) == set(record)


def test_the_mapping_is_said() -> None:
    _, mapping = to_row({"question": "q", "chosen": "a", "rejected": "b", "system": "s", "idx": 3})
    assert mapping.as_text() == (
        "question/answer pairs: question -> prompt, chosen -> chosen, rejected -> rejected, system -> system "
        "(not used: idx)"
    )


def test_the_wanted_kind_settles_which_format_is_read() -> None:
    record = {"prompt": "q", "chosen": "a", "rejected": "b", "completions": ["c", "d"], "rewards": [1, 2]}
    assert to_row(record)[1].kind == "pair"
    assert to_row(record, "ranked")[0].scores == (1.0, 2.0)


def test_completions_with_tool_turns_stay_whole_and_diverging_dialogues_get_prompts_of_their_own() -> None:
    tool = [user("q"), bot("call"), {"role": "tool", "content": "42"}, bot("it is 42")]
    row, _ = to_row({"chosen": tool, "rejected": [user("q"), bot("no")]})
    assert said(row) == ("u:q", "a:call t:42 a:it is 42", "a:no")
    row, _ = to_row({"chosen": [user("q"), bot("a"), user("r"), bot("b")], "rejected": [user("q"), bot("c")]})
    assert said(row) == ("u:q a:a u:r", "u:q", "a:b", "a:c")


def test_margin_label_tools_and_loss_keys() -> None:
    row, _ = to_row({"query": "q", "response": "a", "rejected_response": "b", "margin": 2, "tools": [{"name": "f"}]})
    assert (row.margin, row.tools) == (2.0, '[{"name": "f"}]')
    assert to_row({"messages": [user("q"), bot("a")], "label": False})[0].label is False
    row, _ = to_row({"messages": [user("q"), {**bot("a"), "loss": False}, user("r"), bot("b")]})
    assert [message.trained for message in row.prompt.messages] == [True, False, True]


def test_other_labels_are_no_verdicts_unless_asked_for() -> None:
    record = {"query": "q", "response": "a", "label": "sports"}
    assert to_row(record)[1].kind == "completion"
    with pytest.raises(BadRow, match="JSON has true and false"):
        to_row(record, "labelled")


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"prompt": "q", "completion": "a", "label": "true"}, "label is not true or false: label is the text 'true'"),
        ({"foo": 1}, "unknown layout"),
        ({"query": "q", "response": "a", "videos": ["a.mp4"]}, "not supported: the column videos"),
        ({}, "unknown layout"),
        ({"query": "q", "response": ["a", "b"]}, "several answers"),
        ({"query": {"a": 1}, "response": "a"}, "not text"),
        ({"messages": [{"role": "king", "content": "x"}, bot("a")]}, "unknown role"),
        ({"messages": ["x", bot("a")]}, "not a message"),
        ({"messages": [{"role": "user"}, bot("a")]}, "empty message"),
        ({"messages": [user("q"), user("r")], "rejected": "x", "chosen": [user("q")]}, "no answer"),
        ({"prompt": "q", "completions": ["a"], "rewards": [1, 2]}, "scores do not match"),
        ({"prompt": "q", "completions": ["a", "b"], "rewards": [1, float("nan")]}, "score is not a number"),
        ({"prompt": "q", "completions": ["a", "b"], "rewards": [1, True]}, "score is not a number"),
        ({"text": ["q a"], "scores": [1]}, "no separator"),
        ({"query": "q", "response": "a", "rejected_response": "b", "margin": "far"}, "margin is not a number"),
        ({"query": "q", "response": "a", "history": "[['a'"}, "neither JSON nor"),
        ({"query": "q", "response": "a", "history": [["a"]]}, "broken history"),
        ({"query": "q", "response": "a", "tools": "{"}, "tools are not JSON"),
        ({"messages": [user("q")], "chosen": "x", "rejected": "y", "images": 3}, "not an image"),
        ({"messages": [user("q"), bot("a")], "chosen": "x", "rejected": "y"}, "two answers"),
    ],
)
def test_broken_records_say_why(record: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRow, match=said):
        to_row(record)


def sources(row: Row) -> list[list[str | bytes]]:
    turns = [*(row.prompts or (row.prompt,)), *row.completions]
    return [[image.source for image in one.images] for one in turns]


@pytest.mark.parametrize(
    ("record", "prompt", "expected"),
    [
        ({"query": "q", "response": "a", "images": ["x", "y"]}, "<image><image>q", [["x", "y"], []]),
        ({"query": "q <image>", "response": "a", "image": "x"}, "q <image>", [["x"], []]),
        ({"query": "q", "response": "see <image>", "images": "x"}, "q", [[], ["x"]]),
        ({"query": "<img>x.png</img>q", "response": "a"}, "<image>q", [["x.png"], []]),
        ({"query": "q", "response": "a", "images": [{"bytes": b"x", "path": "p"}]}, "<image>q", [[b"x"], []]),
        ({"query": "q", "response": "a", "images": {"path": "p"}}, "<image>q", [["p"], []]),
        ({"query": "q", "response": "a", "images": '["x"]'}, "<image>q", [["x"], []]),
        ({"query": "q", "response": "a", "images": []}, "q", [[], []]),
        ({"query": "q", "response": "a", "images": [None]}, "q", [[], []]),
        ({"query": "q", "response": "a", "images": ["x"], "system": "s"}, "s", [["x"], []]),
        (
            {"messages": [user([{"type": "image", "image": "x"}, {"type": "text", "text": "q"}]), bot("a")]},
            "<image>q",
            [["x"], []],
        ),
        (
            {
                "messages": [user([{"type": "image_url", "image_url": {"url": "http://x"}}, "q"]), bot("a")],
                "rejected_response": "b",
            },
            "<image>q",
            [["http://x"], [], []],
        ),
        (
            {"prompt": [user([{"type": "image"}, {"type": "text", "text": "q"}])], "completion": "a", "images": ["x"]},
            "<image>q",
            [["x"], []],
        ),
        (
            {"query": "q", "response": "a", "rejected_response": "b", "images": ["x"], "rejected_images": ["y"]},
            "<image>q",
            [["x"], ["y"], [], []],
        ),
        (
            {"query": "q", "response": "a", "images": ["x"], "rejected_images": ["y"]},
            "<image>q",
            [["x"], ["y"], [], []],
        ),
        (
            {"query": "<image>", "response": "<image>", "rejected_response": "no", "images": ["x", "y"]},
            "<image>",
            [["x"], ["y"], []],
        ),
        (
            {"query": "q", "response": "<image>", "rejected": "<image>", "images": ["x"], "rejected_images": ["y"]},
            "q",
            [[], ["x"], ["y"]],
        ),
    ],
)
def test_pictures(record: dict[str, Any], prompt: str, expected: list[list[str | bytes]]) -> None:
    row, _ = to_row(record)
    assert row.prompt.messages[0].content == prompt
    assert sources(row) == expected


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"query": "<image><image>q", "response": "a", "images": ["x"]}, "2 tags, 1 images"),
        ({"query": "<image>q", "response": "a"}, "1 tags, 0 images"),
        ({"query": "<image>q", "response": "a", "images": ["x", "y"]}, "1 tags, 2 images"),
        ({"query": "<image><img>x</img>", "response": "a"}, "two image notations"),
        ({"query": "<img>x</img>", "response": "a", "images": ["y"]}, "two image notations"),
        ({"query": "q", "response": "a", "images": [""]}, "image is empty"),
        ({"query": "q", "response": "a", "images": ["x", None]}, "not an image|image is empty"),
        ({"query": "q", "response": "a", "images": [{"bytes": None, "path": None}]}, "image is empty"),
    ],
)
def test_pictures_that_do_not_fit(record: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRow, match=said):
        to_row(record)


def test_an_unknown_layout_shows_the_row_its_keys_and_the_nearest_formats() -> None:
    lines = unknown_layout({"qustion": "q", "choosen": "a", "rejectd": "b" * 900}, "pair")
    assert lines[0].startswith('first row: {"qustion": "q"')
    assert len(lines[0]) < 500
    assert lines[1] == "keys seen: qustion, choosen, rejectd"
    assert "prompt, chosen, rejected; missing here: prompt, chosen, rejected" in "\n".join(lines)


def test_bytes_in_a_record_do_not_hinder_the_message() -> None:
    assert "<bytes>" in unknown_layout({"picture": b"\xff"})[0]
    assert Image(b"\xff").source == b"\xff"
