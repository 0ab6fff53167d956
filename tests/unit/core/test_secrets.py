"""What is secret is known by one rule, and is neither written nor shown."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from swiftlike.args import hf
from swiftlike.cli.commands import COMMANDS, load
from swiftlike.cli.layers import build_run
from swiftlike.core import log
from swiftlike.core.errors import UserError
from swiftlike.core.files import read_args, write_args
from swiftlike.core.flags import Flags
from swiftlike.core.secrets import HIDDEN, apart, is_secret, public, remember, scrub

CANARY = "canary-4f81b7c2d9"


def declared() -> list[Any]:
    return [flag for name in COMMANDS for homes in Flags(load(name)).by_name.values() for flag in homes]


def test_every_flag_that_can_hold_a_secret_is_declared_so() -> None:
    found = {flag.name for flag in declared() if flag.field.metadata["secret"]}
    assert found >= {"hub_token", "judge_api_key", "api_key"}
    for flag in declared():
        names = (flag.name, *flag.aliases)
        assert {is_secret(name) for name in names} == {flag.field.metadata["secret"]}, names
    assert {name for name in hf.fields() if is_secret(name)} <= {"hub_token", "push_to_hub_token"}


@pytest.mark.parametrize("name", ["hub_token", "api-key", "token", "HF_TOKEN", "aws_secret_access_key", "PASSWORD"])
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", ["add_sep_token", "max_new_tokens", "pad_token", "keyboard", "key", "tokenizer"])
def test_names_of_what_is_none(name: str) -> None:
    assert not is_secret(name)


def test_what_is_written_of_values() -> None:
    nested = {"headers": [{"Authorization": CANARY}], "token": CANARY, "pad_token": "<pad>", "n": 1, "api_key": None}
    hidden = {"headers": [{"Authorization": HIDDEN}], "token": HIDDEN, "pad_token": "<pad>", "n": 1, "api_key": None}
    assert public(nested) == hidden
    url = f"https://me:{CANARY}@host.invalid/v1?api_key={CANARY}&n=1"
    assert public(url, "judge_url") == f"https://{HIDDEN}@host.invalid/v1?api_key={HIDDEN}&n=1"
    for harmless in ("https://host.invalid/a@b", "rows.jsonl#100", "ms::AI/x:default", "a@b.invalid"):
        assert public(harmless) == harmless


def test_what_is_known_or_in_the_environment_is_taken_out_of_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", f"{CANARY}-w")
    remember(f"{CANARY}-k")
    remember("abc")  # too short to be told from words
    text = f"{CANARY}-w {CANARY}-k abc"
    assert scrub(text) == f"{HIDDEN} {HIDDEN} abc"
    assert str(UserError(text, hint=text, problems=[text])).count(HIDDEN) == 6
    record = logging.LogRecord("swiftlike", logging.INFO, "", 0, "%s", (text,), None)
    assert CANARY not in log._Format().format(record)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (f"--hub_token {CANARY}-a --hub_token {CANARY}-b", "given twice"),
        (f"--hub_token {CANARY}-a --hub_token={CANARY}-b", "given twice"),
        (f"--hub_tokn {CANARY}", "unknown flag"),
    ],
)
def test_no_complaint_shows_a_secret(words: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        build_run(load("rlhf"), ["--model", "m", "--dataset", "d", *words.split()], {})
    assert message in str(raised.value)
    assert CANARY not in str(raised.value)


def test_a_record_of_arguments_has_none_and_what_was_hidden_is_not_restored(tmp_path: Path) -> None:
    flags = [
        "--hub_token",
        f"{CANARY}-token",
        "--model_kwargs",
        f'{{"token": "{CANARY}"}}',
        "--model_type",
        "tiny-llama",
    ]
    run, _ = build_run(load("rlhf"), [*flags, "--dataset", "demo#8", "--run_name", f"https://u:{CANARY}@h.invalid"], {})
    assert run.train.hub_token == f"{CANARY}-token"
    assert run.model.model_kwargs["token"] == CANARY
    assert CANARY not in write_args(tmp_path, run).read_text()
    assert run.train.hub_token not in repr(run)
    found = read_args(tmp_path)
    assert found is not None
    assert not {"hub_token", "model_kwargs", "run_name"} & found[1].keys()
    assert found[1]["model_type"] == "tiny-llama"


def test_secrets_leave_the_words_of_a_command_line() -> None:
    words = ["score", "--judge_api_key", "k1", "--scorer=judge", "--api-key=k2", "--dataset", "a", "--hub_token"]
    assert apart(words) == (["score", "--scorer=judge", "--dataset", "a"], {"judge_api_key": "k1", "api_key": "k2"})
