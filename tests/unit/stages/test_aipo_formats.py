"""AIPO's chat formats beside the families' own."""

from __future__ import annotations

import pytest

from swiftlike.core.errors import UserError
from swiftlike.datasets_registry.row import Message
from swiftlike.model_registry.aipo import aipo_format, aipo_text

SPACED = (Message("system", " s "), Message("user", " q "))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mistral-instruct", "<s>[INST] s\n\n q  [/INST]"),
        ("llama", "<s>[INST] <<SYS>>\n s \n<</SYS>>\n\n q [/INST]"),
        ("vicuna", "<s>s\n\nUSER: q\nASSISTANT:"),
        ("zephyr", "<|system|>\n s </s>\n<|user|>\n q </s>\n<|assistant|>\n"),
    ],
)
def test_white_space(name: str, text: str) -> None:
    assert aipo_text(name, SPACED) == text


@pytest.mark.parametrize("name", ["mistral-instruct", "llama", "vicuna", "zephyr"])
def test_other_special_tokens(name: str) -> None:
    messages = (SPACED[0], Message("user", "</s>?"), Message("assistant", "a"), Message("user", "b"))
    text = aipo_text(name, messages, bos="<bos>", eos="<eos>")
    assert "<s>" not in text
    assert text.count("</s>") == 1
    assert "<eos>" in text
    assert text.startswith("<bos>") == (name != "zephyr")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mistral-instruct", "<s>[INST] \n\nq [/INST]"),
        ("llama", "<s>[INST] <<SYS>>\n\n<</SYS>>\n\nq [/INST]"),
        ("vicuna", "<s>\n\nUSER: q\nASSISTANT:"),
        ("zephyr", "<|system|>\n</s>\n<|user|>\nq</s>\n<|assistant|>\n"),
    ],
)
def test_an_empty_system_message_is_written(name: str, text: str) -> None:
    assert aipo_text(name, (Message("system", ""), Message("user", "q"))) == text


def test_vicuna_without_system_has_no_first_token() -> None:
    assert aipo_text("vicuna", SPACED[1:], add_generation_prompt=False) == "USER: q\n"


def test_unknown_name() -> None:
    with pytest.raises(UserError, match="no chat template 'zephir'; did you mean 'zephyr'"):
        aipo_format("zephir")
