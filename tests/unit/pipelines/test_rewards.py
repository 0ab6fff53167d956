"""What decides how a reward is read and which token pads."""

from __future__ import annotations

import types

import families
import pytest

from swiftlike.pipelines.rewards import end_tokens, spare_padding


def checkpoint(stop: str | None, pad: str, *extra: str) -> types.SimpleNamespace:
    """A tokenizer that pads with `pad` and has `extra` special tokens, and a template whose answers end with `stop`."""
    import copy

    tokenizer = copy.deepcopy(families.tokenizer())
    tokenizer.add_special_tokens({"additional_special_tokens": list(extra)})
    tokenizer.pad_token = pad
    card = None if stop is None else types.SimpleNamespace(stop=stop)
    return types.SimpleNamespace(tokenizer=tokenizer, template=types.SimpleNamespace(card=card))


@pytest.mark.parametrize(
    ("stop", "ends"),
    [
        (None, {"<|im_end|>"}),
        ("</s>", {"<|im_end|>", "</s>"}),
        ("<|im_end|>", {"<|im_end|>"}),
        ("</s>\n", {"<|im_end|>"}),
        ("", {"<|im_end|>"}),
    ],
)
def test_what_ends_an_answer(stop: str | None, ends: set[str]) -> None:
    """The tokenizer's end token and the template's stop token; white space is no end token."""
    assert end_tokens(checkpoint(stop, "<pad>")) == {families.token(name) for name in ends}


@pytest.mark.parametrize(
    ("pad", "extra", "chosen"),
    [
        ("<pad>", (), "<pad>"),
        ("<|im_end|>", ("<|reserved_0|>", "<|right_pad_id|>"), "<pad>"),
        ("</s>", ("<|reserved_0|>",), "</s>"),
    ],
)
def test_padding_is_told_from_the_end(pad: str, extra: tuple[str, ...], chosen: str) -> None:
    """Only where the end token pads, and then with a token that is named for it."""
    made = checkpoint("<|im_end|>", pad, *extra)
    spare_padding(made)
    assert made.tokenizer.pad_token == chosen
