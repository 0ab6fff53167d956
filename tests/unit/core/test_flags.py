"""Spellings of flags."""

from typing import Any

import pytest

from swiftlike.core.declare import Command, arg, section
from swiftlike.core.flags import Flags, nearest, word_for


@section
class One:
    rank: int = arg(8, "rank", ge=1, le=64, aliases=("lora_r",))
    dtype: str = arg("auto", "type", values={"bf16": "bfloat16"})
    words: list[str] = arg(["ALL"], "words", values={"all-linear": "ALL"})
    attn: str | None = arg(None, "attention", old={"use_flash": {"true": "flash", "false": ...}})
    on_bad: str = arg("error", "rows", old={"strategy": {"discard": "drop", "none": ...}})
    memory: dict[str, str] = arg({}, "memory", old={"cards": lambda raw: {"0": str(raw)}})


@section
class Again:
    rank: float = arg(1.0, "something else")


@section
class Beta:
    beta: float = arg(0.1, "beta")


@section
class OtherBeta:
    beta: int = arg(1, "beta")


@section
class Thief:
    r: int = arg(1, "r", aliases=("lora_r",))


def flags(*classes: type) -> Flags:
    return Flags(Command(name="x", summary="", target="", sections={cls.__name__: cls for cls in classes}))


@pytest.mark.parametrize(
    ("spelling", "raw", "expected"),
    [
        ("rank", "4", ("rank", 4)),
        ("lora_r", "4", ("rank", 4)),
        ("dtype", "bf16", ("dtype", "bfloat16")),
        ("words", ["all-linear", "q"], ("words", ["ALL", "q"])),
        ("use_flash", "yes", ("attn", "flash")),
        ("use_flash", False, ("attn", ...)),
        ("strategy", "discard", ("on_bad", "drop")),
        ("strategy", "none", ("on_bad", ...)),
        ("cards", "10GB", ("memory", {"0": "10GB"})),
    ],
)
def test_spellings_lead_to_one_flag(spelling: str, raw: Any, expected: tuple[str, Any]) -> None:
    assert flags(One).read(spelling, raw) == expected


BAD = [
    ("rank", "0", "less than 1"),
    ("rank", "65", "more than 64"),
    ("strategy", "x", "not one of discard, none"),
    ("use_flash", "x", "not true or false"),
]


@pytest.mark.parametrize(("spelling", "raw", "reason"), BAD)
def test_bad_values_are_refused(spelling: str, raw: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        flags(One).read(spelling, raw)


def test_an_old_boolean_may_stand_alone_though_its_flag_takes_text() -> None:
    assert flags(One).kind_of("use_flash") is bool
    assert flags(One).kind_of("lora_r") is int
    assert flags(One).kind_of("nothing") is None


@pytest.mark.parametrize("classes", [(One, Again), (One, Thief), (One, One)])
def test_two_meanings_of_one_flag_are_an_error(classes: tuple[type, ...]) -> None:
    sections = {str(at): cls for at, cls in enumerate(classes)}
    with pytest.raises(ValueError, match=r"again|stands for both"):
        Flags(Command(name="x", summary="", target="", sections=sections))


def test_alternatives_share_a_flag_only_with_one_type() -> None:
    def table(other: type) -> Command:
        choose = {"loss": ("kind", {"a": Beta, "b": other})}
        return Command(name="x", summary="", target="", sections={}, choose=choose)

    assert [flag.choice for flag in Flags(table(Beta)).by_name["beta"]] == ["kind=a", "kind=b"]
    with pytest.raises(ValueError, match="another type"):
        Flags(table(OtherBeta))


def test_nearest_names() -> None:
    assert nearest("lora_rnak", ["lora_rank", "seed"]) == "; did you mean --lora_rank?"
    assert nearest("zzz", ["lora_rank"]) == ""


def test_words_of_types() -> None:
    assert word_for(list[float]) == "FLOAT ..."
    assert word_for(int | float | None) == "INT|FLOAT"
    assert word_for(dict[str, Any]) == "JSON"
