"""What is written into a self-instruct prompt, and what is read from the answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, strategies

from swiftlike.stages.instructions import Parsing, cut_at, parse, prompt_text, stop_strings

from .words import words

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "aipo_pipeline.json").read_text(encoding="utf-8"))["cases"]
RESPONSES = {case["name"]: case["inputs"]["response"] for case in GOLDEN if case["loss"] == "self_instruct_parse"}
V1 = Parsing(parser="v1")


def read(response: str, **options: object) -> list[str]:
    return parse(response, Parsing(**options), words)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "parse_0",
            ["Explain how rainbows form in the sky", "Describe the taste of a ripe mango to someone 11.Bad split here"],
        ),
        ("parse_1", ["Given the following data: 1 2 3 compute the mean value."]),
        (
            "parse_3",
            [
                "Translate THE FOLLOWING Sentence Into French: Hello my FRIEND",
                "Example: give a list of pets. Output: cat dog",
            ],
        ),
        ("parse_5", ["Name the capital of Panama: is it panama city or something else entirely"]),
    ],
)
def test_case_and_words_stay_whole(name: str, expected: list[str]) -> None:
    assert read(RESPONSES[name]) == expected
    assert parse(RESPONSES[name], V1, words) != expected


@pytest.mark.parametrize("parser", ["v1", "v2"])
@pytest.mark.parametrize("name", ["parse_2", "parse_4", "parse_6"])
def test_unsuitable_ones_are_left_out(name: str, parser: str) -> None:
    assert read(RESPONSES[name], parser=parser) == []


@pytest.mark.parametrize(
    ("response", "v1", "v2"),
    [
        ("say hi to Bob A: 12 or more", ["Say hi to bob"], ["Say hi to Bob"]),
        ("the answer: yes or no", ["The"], []),  # too short after the cut
        ("Solution: who needs one of these", [""], []),
        ("what does NASA do? OUTPUT: rockets", ["What does nasa do?"], ["What does NASA do?"]),
        ("WRITE A PROGRAM that counts to ten", [], []),
        ("DETAILED INSTRUCTIONS: eat more fruit now", [], []),
        ("what is in the IMAGE below here", [], []),
        ("imagine a mapped graphene filer please", *[["Imagine a mapped graphene filer please"]] * 2),
    ],
)
def test_parsers(response: str, v1: list[str], v2: list[str]) -> None:
    assert parse(response, V1, words) == v1
    assert read(response) == v2


def test_without_additional_filtering_nothing_is_cut() -> None:
    text = "Detailed instructions: add the numbers. Answer: 2"
    assert read(text, additional_filtering=False) == [text]


def test_limits_are_included_and_hold_after_the_cut() -> None:
    limits = {"prompt_min_length": 3, "prompt_max_length": 4}
    assert read("one two\n2. one two three\n3. a b c d\n4. a b c d e", **limits) == ["One two three", "A b c d"]
    assert read("one two three four Answer: five six seven", **limits) == ["One two three four"]
    assert parse("one two three four Answer: five", Parsing(parser="v1", **limits), words) == []


@given(strategies.text())
def test_v2_keeps_what_it_promises(response: str) -> None:
    for text in read(response, prompt_min_length=2, prompt_max_length=6):
        assert 2 <= words(text) <= 6
        assert text == " ".join(text.split())
        assert text[0] == text[0].upper()
        assert text[1:] in " ".join(response.split())


def test_prompt_ends_with_the_next_number() -> None:
    assert prompt_text(["Do  this:\nnow: ", "b"]) == "Come up with a series of tasks:\n\n1. Do this: now\n2. b\n3."


@pytest.mark.parametrize(("parser", "last"), [("v1", 10), ("v2", 11)])
def test_stop_strings(parser: str, last: int) -> None:
    assert stop_strings(8, 2, parser) == ["\n\n", f"\n{last}", f"{last}.", f"{last} ."]


@pytest.mark.parametrize("wanted", [1, 2, 3])
def test_a_list_is_cut_after_as_many_as_wanted(wanted: int) -> None:
    shown = 4
    listed = "".join(f"{i}. do the thing number {i} now\n" for i in range(shown + 1, shown + 9))
    answer = cut_at(listed.removeprefix(f"{shown + 1}."), stop_strings(shown, wanted))
    assert len(read(answer)) == wanted


@given(strategies.text("ab1."), strategies.lists(strategies.text("ab1.", min_size=1)))
def test_cut_text_is_the_longest_beginning_without_a_stop(text: str, stops: list[str]) -> None:
    cut = cut_at(text, stops)
    assert text.startswith(cut)
    assert not any(stop in cut for stop in stops)
    assert cut == text or any(text[len(cut) :].startswith(stop) for stop in stops)
