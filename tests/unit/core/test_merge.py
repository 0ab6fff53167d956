"""Layers, provenance, and every problem at once."""

import pickle
from typing import Any

import pytest

from swiftlike.core.declare import Command, arg, section
from swiftlike.core.errors import UserError
from swiftlike.core.merge import COMMAND_LINE, Given, Run, merge
from swiftlike.core.secrets import HIDDEN


@section
class Common:
    kind: str = arg("a", "which")
    rank: int = arg(8, "rank", aliases=("lora_r",))
    names: list[str] = arg([], "names")
    token: str | None = arg(None, "secret", secret=True)


@section
class A:
    beta: float = arg(0.1, "beta")


@section
class B:
    beta: float = arg(2.0, "beta")
    gamma: float = arg(1.0, "gamma")


COMMAND = Command(
    name="go",
    summary="",
    target="",
    sections={"common": Common},
    choose={"loss": ("kind", {"a": A, "b": B})},
    check=lambda run: ["rank 13 is unlucky"] if run.common.rank == 13 else [],
)


def layer(source: str = COMMAND_LINE, **values: Any) -> list[Given]:
    return [Given(flag, raw, source) for flag, raw in values.items()]


def problems(*layers: list[Given], **more: Any) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        merge(COMMAND, layers, **more)
    return caught.value.problems


def test_later_layers_win_and_say_so() -> None:
    run = merge(COMMAND, [layer("run.yaml", rank="4", names=["x"]), layer(rank="5")])
    assert (run.common.rank, run.common.names) == (5, ["x"])
    assert run.origin["rank"] == COMMAND_LINE
    assert run.origin["names"] == "run.yaml"
    assert run.origin["kind"] == "default"


def test_a_choice_brings_its_own_default() -> None:
    assert merge(COMMAND, []).loss == A(beta=0.1)
    assert merge(COMMAND, [layer(kind="b")]).loss == B(beta=2.0, gamma=1.0)
    assert merge(COMMAND, [layer("run.yaml", gamma=3), layer(kind="b")]).loss.gamma == 3


def test_every_problem_is_named_at_once() -> None:
    found = problems(layer("run.yaml", rnak=1, rank="x"), layer(gamma="1", names="a", rank=13), problems=["first"])
    assert found == (
        "first",
        "run.yaml: 'rnak': unknown flag; did you mean --rank?",
        "run.yaml: 'rank': 'x' is not a number",
        "command line: --gamma belongs to kind=b, not kind=a",
        "rank 13 is unlucky",
    )


def test_an_unknown_choice_names_the_known_ones() -> None:
    assert problems(layer(kind="c")) == ("command line: kind: 'c' is not one of a, b",)


def test_two_spellings_must_agree_within_a_layer() -> None:
    assert "--rank and --lora_r mean the same, but say '1' and '2'" in problems(layer(rank="1", lora_r="2"))[0]
    assert "--rank is given twice" in problems([*layer(rank="1"), *layer(rank="2")])[0]
    assert merge(COMMAND, [layer(rank="1", lora_r=1)]).common.rank == 1
    assert merge(COMMAND, [layer("run.yaml", rank="1"), layer(lora_r="2")]).common.rank == 2


def test_extra_keys_land_in_hf() -> None:
    run = merge(COMMAND, [layer(more="1")], extra=lambda flag, raw: {flag: int(raw)})
    assert run.hf == {"more": 1}
    assert run.flags()["more"] == 1
    assert run.origin["more"] == COMMAND_LINE


def test_a_run_is_frozen_flat_and_picklable() -> None:
    run = merge(COMMAND, [layer(token="hush", kind="b")])
    assert run.flags() == {"kind": "b", "rank": 8, "names": [], "token": HIDDEN, "beta": 2.0, "gamma": 1.0}
    again: Run = pickle.loads(pickle.dumps(run))
    assert again == run
    assert again.common.token == "hush"
    with pytest.raises(AttributeError):
        run.common.rank = 3
    with pytest.raises(AttributeError, match="go command has no section 'nope'"):
        _ = run.nope


def test_a_derived_value_keeps_its_reason() -> None:
    run = merge(COMMAND, [])
    derived = run.replace("derived: two cards", rank=4, beta=0.2)
    assert (derived.common.rank, derived.loss.beta, derived.origin["rank"]) == (4, 0.2, "derived: two cards")
    assert (run.common.rank, run.origin["rank"]) == (8, "default")
    with pytest.raises(KeyError):
        run.replace("why", gamma=1)
