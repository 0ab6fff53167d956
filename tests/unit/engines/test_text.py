"""Text that arrives token by token."""

from __future__ import annotations

import random

import pytest
from tokenizers.decoders import DecodeStream

from swiftlike.engines.text import Text, whole
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
    """Bytes that never become a character are shown as decoding everything at once shows them, but not at the end."""
    tokenizer, chance = TOKENIZERS[name], random.Random(0)
    for _ in range(50):
        ids = [chance.randrange(len(tokenizer)) for _ in range(20)]
        text, at_once = "".join(deltas(tokenizer, ids)), tokenizer.decode(ids, skip_special_tokens=True)
        assert text == whole(tokenizer, ids)
        assert at_once.startswith(text)
        assert not text.endswith("\ufffd")
        assert at_once.endswith("\ufffd") or text == at_once


@pytest.mark.parametrize(("said", "shown"), [("ok 🙂", "ok "), ("naïve", "naïve"), ("日本", "日"), ("🙂", "")])
def test_a_character_that_is_cut_is_not_shown(said: str, shown: str) -> None:
    """The same for our engines, streamed or not, and for vLLM's server, which decodes by this stream of tokenizers."""
    tokenizer = TOKENIZERS["byte"]
    ids = tokenizer(said)["input_ids"]
    cut = ids if said == shown else ids[:-1]
    stream = DecodeStream(skip_special_tokens=True)
    server = "".join(stream.step(tokenizer.backend_tokenizer, token) or "" for token in cut)
    assert "".join(deltas(tokenizer, cut)) == whole(tokenizer, cut) == server == shown


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
    assert "".join(deltas(tokenizer, after, context=before)) == whole(tokenizer, after, before) == " red"
