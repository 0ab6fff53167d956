"""Everything before weights: what is opened, which layout is taken, which rows are used and what is said of others."""

from __future__ import annotations

import dataclasses as dc
import logging
from pathlib import Path

import families
import pytest

from swiftlike.cli.commands import load
from swiftlike.cli.layers import build_run
from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run
from swiftlike.data.check import Problem
from swiftlike.data.packed import Packed
from swiftlike.data.prepared import encode_rows
from swiftlike.datasets_registry.row import Image, Message, Row, Turns
from swiftlike.models import layout
from swiftlike.pipelines.prepare import Checkpoint, choose_layout, digest, encoder, open_checkpoint, settle
from swiftlike.pipelines.preview import encode_lengths, quantiles

LONG = "longer than max_length"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name in ("llama", "gemma2", "qwen2_vl", "llava_next", "llava"):
        families.save(name, root / name)
    return root


def asked(folders: Path, name: str, *words: str) -> Run:
    argv = ["--model", str(folders / name), "--dataset", "x", "--template", "chatml", *words]
    return build_run(load("rlhf"), argv, {})[0]


def opened(folders: Path, name: str, *words: str) -> Checkpoint:
    return open_checkpoint(asked(folders, name, *words), weights=False)


def row(text: str, answer: str = "Yes.", origin: str = "rows.jsonl:1") -> Row:
    prompt = Turns((Message("user", text),))
    return Row(prompt, (Turns((Message("assistant", answer),)), Turns((Message("assistant", "No."),))), origin=origin)


# -- checkpoints -----------------------------------------------------------------------------------------------------


def test_text(folders: Path) -> None:
    found = opened(folders, "llama")
    assert (found.adapter, found.attention, found.layout) == (None, "sdpa", "shared")
    assert found.template.card.name == "chatml"
    assert opened(folders, "gemma2").attention == "eager"
    assert opened(folders, "llama", "--system", "Be kind.").template.system == "Be kind."


@pytest.mark.parametrize("name", ["qwen2_vl", "llava_next", "llava"])
def test_vision(folders: Path, name: str) -> None:
    found = opened(folders, name)
    assert found.adapter.count(60, 40) == families.adapter(name).count(60, 40)
    assert found.layout == "shared"
    assert encoder(asked(folders, name), found, False).placeholder == families.placeholder(name)


def test_picture_limits_reach_the_adapter(folders: Path) -> None:
    assert opened(folders, "qwen2_vl", "--max_image_tokens", "3").adapter.count(300, 300) <= 3
    narrowed = opened(folders, "llava_next", "--max_image_tokens", "52")
    assert narrowed.config.image_grid_pinpoints == narrowed.adapter.config.image_grid_pinpoints != []
    assert len(narrowed.config.image_grid_pinpoints) < len(families.config("llava_next").image_grid_pinpoints)
    with pytest.raises(UserError, match="text only"):
        opened(folders, "llama", "--max_pixels", "100")


@pytest.mark.parametrize(
    ("words", "kind", "why"),
    [
        ([], "shared", "computed once"),
        (["--layout", "split"], "split", "--layout"),
        (["--layout", "shared"], "shared", "--layout"),
        (["--attn_impl", "flash_attention_2", "--dry_run"], "split", "flash_attention_2 takes no mask"),
        (["--attn_impl", "eager"], "shared", "computed once"),
    ],
)
def test_layout(folders: Path, words: list[str], kind: str, why: str) -> None:
    found = opened(folders, "llama", *words)
    assert found.layout == kind
    assert why in found.layout_reason


@pytest.mark.parametrize(
    ("words", "longest"),
    [
        ([], layout.LONG),
        (["--padding_free", "true", "--attn_impl", "flex_attention"], 0),
        (["--attn_impl", "flash_attention_2", "--dry_run"], 0),
        (["--padding_free", "true"], 0),
        (["--padding_free", "false"], None),
        (["--layout", "split"], None),
        (["--attn_impl", "eager"], None),
    ],
)
def test_rows_end_to_end(folders: Path, words: list[str], longest: int | None) -> None:
    assert opened(folders, "llama", *words).end_to_end == longest


@pytest.mark.parametrize("words", [["--attn_impl", "eager"], ["--layout", "split"]])
def test_padding_that_must_be(folders: Path, words: list[str]) -> None:
    with pytest.raises(UserError, match="--padding_free is not possible with"):
        opened(folders, "llama", "--padding_free", "true", *words)


def test_a_layout_that_is_not_possible(folders: Path) -> None:
    with pytest.raises(UserError, match="--layout shared is not possible: flash_attention_2"):
        opened(folders, "llama", "--layout", "shared", "--attn_impl", "flash_attention_2", "--dry_run")
    found = opened(folders, "llama")
    split_only = dc.replace(found.source, card=dc.replace(found.source.card, layouts=("split",)))
    assert choose_layout("auto", split_only, found.config, "sdpa") == ("split", "llama models cannot take it")
    with pytest.raises(UserError, match="llama models cannot take it"):
        choose_layout("shared", split_only, found.config, "sdpa")


# -- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strategy", "wanted"), [(None, "delete"), ("delete", "delete"), ("left", "left")])
def test_encoder_options(folders: Path, strategy: str | None, wanted: str) -> None:
    words = ["--truncation_strategy", strategy] if strategy else []
    run = asked(folders, "llama", "--max_length", "77", *words)
    made = encoder(run, opened(folders, "llama"), every=True)
    assert (made.max_length, made.truncation, made.every) == (77, wanted, True)
    assert encoder(asked(folders, "llama"), opened(folders, "llama"), False).max_length is None


def test_every_limit_reaches_the_encoder(folders: Path) -> None:
    words = "--truncation_mode keep_end --max_length 60 --max_prompt_length 40 --max_gen_len 30"
    run = asked(folders, "llama", *words.split())
    limits = encoder(run, opened(folders, "llama"), False).lengths
    assert (limits.strategy, limits.total, limits.prompt, limits.completion) == ("keep_end", 60, 40, 30)


def test_prompts_over_their_own_limit_are_bad_rows(folders: Path) -> None:
    run = asked(folders, "llama", "--max_prompt_length", "40", "--max_completion_length", "2")
    found, problems = encode_lengths(
        run, [row("Short?", "A long answer. " * 30), row("long " * 90, origin="l:2")], False
    )
    assert max(found["row"]) > 100
    assert [(problem.origin, problem.kind) for problem in problems] == [("l:2", LONG)]
    assert "--max_prompt_length is 40" in problems[0].detail


def test_bad_rows_are_told_apart(folders: Path) -> None:
    run = asked(folders, "llama", "--max_length", "60")
    picture = Row(Turns((Message("user", "<image>?"),), (Image("a.png"),)), row("x").completions, origin="p:3")
    groups, problems = encode_rows(
        encoder(run, opened(folders, "llama"), False), [row("Short?"), row("long " * 90, origin="l:2"), picture]
    )
    assert len(groups) == 1
    assert [(problem.origin, problem.kind) for problem in problems] == [
        ("l:2", LONG),
        ("p:3", "images for a text model"),
    ]


BAD = [
    Problem("a.jsonl:4", "broken", "no answer"),
    Problem("a.jsonl:9", "broken", ""),
    Problem("b.jsonl:1", LONG, "99"),
]


def test_bad_rows_stop_the_run(folders: Path) -> None:
    settle([], asked(folders, "llama"), "training")
    with pytest.raises(UserError, match="3 training rows cannot be used") as caught:
        settle(BAD, asked(folders, "llama"), "training")
    text = str(caught.value)
    assert "2 x broken, first: a.jsonl:4" in text
    assert f"1 x {LONG}, first: b.jsonl:1" in text
    assert "--on_bad_row drop" in text
    assert "--max_length" in text


@pytest.mark.parametrize(
    ("words", "problems", "stops"),
    [
        (["--on_bad_row", "drop"], BAD, False),
        (["--truncation_strategy", "delete"], BAD[2:], False),  # asked for
        (["--truncation_strategy", "delete"], BAD, True),
        (["--truncation_strategy", "left"], BAD[2:], True),
        ([], BAD[2:], True),
    ],
)
def test_when_rows_may_be_left_out(
    words: list[str], problems: list[Problem], stops: bool, folders: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = asked(folders, "llama", *words)
    if stops:
        with pytest.raises(UserError):
            settle(problems, run, "training")
        return
    logger = logging.getLogger("swiftlike.pipelines.prepare")
    logger.addHandler(caplog.handler)
    try:
        settle(problems, run, "training")
    finally:
        logger.removeHandler(caplog.handler)
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert all(f"x {problem.kind}, first: " in text for problem in problems)


def test_digest(folders: Path) -> None:
    encode = encoder(asked(folders, "llama"), opened(folders, "llama"), False)
    one, two, other = encode(row("One?")), encode(row("Two?")), encode(row("One?", "Maybe."))
    seen = {
        digest(Packed.of(groups), *settings)
        for groups, *settings in (([one, two], 42), ([two, one], 42), ([one, two], 43))
    }
    changed = ([other, two], [one], [dc.replace(one, label=True), two])
    seen |= {digest(Packed.of(groups), 42) for groups in changed}
    assert len(seen) == 6
    assert digest(Packed.of([one, two]), 42) in seen


# -- lengths ---------------------------------------------------------------------------------------------------------


def test_lengths_of_rows_of_any_length(folders: Path, tmp_path: Path) -> None:
    families.picture(60, 40).save(tmp_path / "a.png")
    seen = Turns((Message("user", "<image>?"),), (Image(str(tmp_path / "a.png")),))
    looking = dc.replace(row("x"), prompt=seen)
    run = asked(folders, "llava", "--max_length", "20")
    found, problems = encode_lengths(run, [row("long " * 90), looking], every=False)
    assert [problem.kind for problem in problems] == ["longer than max_length"] * 2
    assert found["images"] == [0, 16]
    assert found["prompt"][0] > 20
    assert len(found["completion"]) == 4
    longest = [max(found["completion"][:2]), max(found["completion"][2:])]
    assert found["row"] == [p + c for p, c in zip(found["prompt"], longest, strict=True)]


@pytest.mark.parametrize(
    ("values", "wanted"), [([], (0, 0, 0)), ([7], (7, 7, 7)), ([*range(1, 101)], (51, 96, 100)), ([1, 2], (2, 2, 2))]
)
def test_quantiles(values: list[int], wanted: tuple[int, int, int]) -> None:
    assert tuple(quantiles(values).values()) == wanted
