"""Text that arrives token by token."""

from __future__ import annotations

import random

import pytest

from swiftlike.engines.text import Text
from tests import families

TOKENIZERS = {
    "byte": families.tokenizer(),
    "first": families.prefix_space_tokenizer("first"),
    "always": families.prefix_space_tokenizer("always"),
}


def deltas(tokenizer, ids: list[int], *stops: str, context: list[int] = ()) -> list[str]:
    """What comes out, the end included."""
    text = Text(tokenizer, stops, context)
    out = []
    for token in ids:
        out.append(text.add(token))
        if text.stopped:
            break
    return [*out, text.end()]


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("said", ["Hello, what is  in it?", "naïve 日本語 🙂🙃 ok", "\n\n x", " leading"])
def test_deltas_make_up_the_whole_text_and_hold_whole_characters(name: str, said: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer(said, add_special_tokens=False)["input_ids"]
    parts = deltas(tokenizer, ids)
    assert "".join(parts) == tokenizer.decode(ids, skip_special_tokens=True)
    assert not any("\ufffd" in part for part in parts)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_random_tokens_lose_nothing(name: str) -> None:
    """Bytes that never become a character are shown as decoding everything at once shows them."""
    tokenizer, chance = TOKENIZERS[name], random.Random(0)
    for _ in range(50):
        ids = [chance.randrange(len(tokenizer)) for _ in range(20)]
        assert "".join(deltas(tokenizer, ids)) == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("said", "stops", "kept"),
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["tw", "one t"], ""),
        ("one two three", ["x", "three"], "one two "),
        ("one two three", ["threes"], "one two three"),
        ("aaab aab", ["aab"], "a"),
        ("日本語です", ["語で"], "日本"),
        ("one", [""], "one"),
    ],
)
def test_stop_texts_cut_exactly_and_never_leak(said: str, stops: list[str], kept: str) -> None:
    tokenizer = TOKENIZERS["byte"]
    ids = tokenizer(said)["input_ids"]
    parts = deltas(tokenizer, ids, *stops)
    assert "".join(parts) == kept
    for end in range(len(parts)):  # nothing is ever taken back
        assert kept.startswith("".join(parts[: end + 1]))


def test_an_answer_that_goes_on_keeps_its_first_space() -> None:
    tokenizer = TOKENIZERS["first"]
    before, after = tokenizer("It is")["input_ids"], tokenizer.convert_tokens_to_ids(["▁", "r", "e", "d"])
    assert "".join(deltas(tokenizer, after)) == "red"
    assert "".join(deltas(tokenizer, after, context=before)) == " red"
