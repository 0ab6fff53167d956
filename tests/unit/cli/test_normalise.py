"""The words of a command line."""

from typing import Any

import pytest

from swiftlike.cli.commands import load
from swiftlike.cli.normalise import normalise
from swiftlike.core.flags import Flags

RLHF, CHECK = Flags(load("rlhf")), Flags(load("check"))


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("--lora-rank 8", {"lora_rank": "8"}),
        ("--lora_rank=8", {"lora_rank": "8"}),
        ("--gradient-checkpointing", {"gradient_checkpointing": "true"}),
        ("--streaming --lora_rank 8", {"streaming": "true", "lora_rank": "8"}),
        ("--dataset a b --seed 1", {"seed": "1", "dataset": ["a", "b"]}),
        ("--dataset a --seed 1 --dataset b", {"seed": "1", "dataset": ["a", "b"]}),
        ("--target_modules q k", {"target_modules": ["q", "k"]}),
        ("--max_steps -1", {"max_steps": "-1"}),
        ("--use_flash_attn", {"use_flash_attn": "true"}),
        ("--eval_delay 0.5 --bf32", {"eval_delay": "0.5", "bf32": "true"}),
        ("--unknown a b", {"unknown": ["a", "b"]}),
        ("--system=", {"system": ""}),
    ],
)
def test_ms_swift_habits(words: str, given: dict[str, Any]) -> None:
    found = normalise(words.split(), RLHF)
    assert {one.flag: one.raw for one in found.given} == given
    assert found.problems == []


def test_values_keep_blanks_and_quotes() -> None:
    found = normalise(["--system", "be kind --always", "--model_kwargs", '{"a": [1, 2]}'], RLHF)
    assert [one.raw for one in found.given] == ["be kind --always", ['{"a": [1, 2]}']]


def test_configuration_files() -> None:
    assert normalise(["run.yaml", "--seed", "1"], RLHF).config == ["run.yaml"]
    assert normalise(["--config", "a.yaml", "b.json"], RLHF).config == ["a.yaml", "b.json"]
    assert normalise(["--show-config"], RLHF).show_config
    assert not normalise(["--show_config", "false"], RLHF).show_config


def test_words_that_no_flag_takes() -> None:
    assert normalise(["--seed", "1", "2"], RLHF).problems == ["command line: '2' does not belong to any flag"]
    assert normalise(["--seed"], RLHF).problems == ["command line: --seed needs a value"]
    assert normalise(["--dataset", "--seed", "1"], RLHF).problems == ["command line: --dataset needs a value"]


def test_positional_data_sets_of_check() -> None:
    found = normalise(["a.json", "--json", "b.jsonl", "--strict", "false", "c.yaml"], CHECK)
    assert {one.flag: one.raw for one in found.given} == {
        "json": "true",
        "strict": "false",
        "dataset": ["a.json", "b.jsonl"],
    }
    assert found.config == ["c.yaml"]
