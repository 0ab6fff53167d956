"""Rows to tokens: what counts, what is shared, pictures expanded and never cut, lengths bounded."""

from __future__ import annotations

import dataclasses as dc
import io

import families
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swiftlike.data.encode import Encoded, Encoder, Span
from swiftlike.data.lengths import DEFAULT_TEXT
from swiftlike.data.template import Template
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import Image, Message, Row, Turns
from swiftlike.model_registry import TEMPLATES

BYTE = families.tokenizer()
CHATML = TEMPLATES.get("chatml")
QUICK = settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def image(width: int, height: int, seed: int = 0) -> Image:
    """A picture in memory."""
    buffer = io.BytesIO()
    families.picture(width, height, seed).save(buffer, "PNG")
    return Image(buffer.getvalue())


SMALL, WIDE, OTHER = image(40, 30), image(90, 40), image(40, 30, seed=9)


def encoder(name: str = "llama", **options) -> Encoder:
    card = families.card(name).vision
    adapter = families.adapter(name) if card else None
    return Encoder(template=Template(BYTE, CHATML, card), adapter=adapter, **options)


def user(text: str, *images: Image) -> Turns:
    return Turns((Message("user", text),), images)


def answer(text: str, *images: Image) -> Turns:
    return Turns((Message("assistant", text),), images)


def row(prompt: Turns, *answers: str | Turns, **more) -> Row:
    return Row(prompt, tuple(answer(one) if isinstance(one, str) else one for one in answers), **more)


def sequences(group: Encoded) -> list[tuple[list[int], list[bool]]]:
    """The K whole sequences: ids and what counts."""
    return [([*group.prompt.ids, *one.ids], [*group.prompt.counted, *one.counted]) for one in group.completions]


def counted_text(group: Encoded) -> list[str]:
    return [BYTE.decode([i for i, c in zip(ids, flags, strict=True) if c]) for ids, flags in sequences(group)]


PAIR = row(user("What is it?"), "A red square.", "A red circle!")


# -- what counts -----------------------------------------------------------------------------------------------------


def test_sequences_are_the_templated_texts() -> None:
    group = encoder()(PAIR)
    for (ids, flags), text in zip(sequences(group), ("A red square.", "A red circle!"), strict=True):
        whole = f"<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\n{text}<|im_end|>"
        assert BYTE.decode(ids) == whole
        assert BYTE.decode(np.array(ids)[flags]) == f"{text}<|im_end|>"
    assert not group.prompt.counted.any()
    assert group.completions[0].counted.all()


def test_the_prompt_ends_before_the_first_counted_token() -> None:
    """Completions that begin alike still count from their own first token on."""
    group = encoder()(PAIR)
    assert BYTE.decode(group.prompt.ids).endswith("<|im_start|>assistant\n")
    assert BYTE.decode(group.completions[0].ids[:2]) == BYTE.decode(group.completions[1].ids[:2])
    single = encoder()(row(user("What is it?"), "A red square."))
    assert len(single.completions) == 1
    assert np.array_equal(single.prompt.ids, group.prompt.ids)


def test_every_answer_of_a_conversation() -> None:
    talk = Turns((Message("user", "a"), Message("assistant", "one"), Message("user", "b")))
    assert counted_text(encoder()(row(talk, "two"))) == ["two<|im_end|>"]
    group = encoder(every=True)(row(talk, "two"))
    assert counted_text(group) == ["one<|im_end|>two<|im_end|>"]
    assert BYTE.decode(group.prompt.ids) == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    silent = dc.replace(talk.messages[1], trained=False)
    quiet = Turns((talk.messages[0], silent, talk.messages[2]))
    assert counted_text(encoder(every=True)(row(quiet, "two"))) == ["two<|im_end|>"]


def test_the_first_token_never_counts() -> None:
    bare = Encoder(template=Template(BYTE, TEMPLATES.get("default-generation")))
    group = bare(row(user(""), "yes"))
    ids, flags = sequences(group)[0]
    assert flags[0] is np.False_ or not flags[0]
    assert sum(flags) == len(ids) - 1 > 0
    with pytest.raises(BadRow, match="no tokens to train on"):
        Encoder(template=Template(BYTE, dc.replace(TEMPLATES.get("default-generation"), stop="")))(row(user(""), "a"))


def test_facts_of_the_row_come_along() -> None:
    group = encoder()(dc.replace(PAIR, scores=(2.0, 1.0), margin=0.5, label=True, origin="a.jsonl:3"))
    assert (group.scores, group.margin, group.label, group.origin) == ((2.0, 1.0), 0.5, True, "a.jsonl:3")
    assert group.shared_length == len(group.prompt.ids) + sum(len(one.ids) for one in group.completions)
    assert group.longest == max(len(ids) for ids, _ in sequences(group))


# -- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", families.VISION)
def test_pictures_are_expanded_in_order(name: str) -> None:
    encode = encoder(name)
    group = encode(row(user("<image>Left. <image>Right.", WIDE, SMALL), "Yes.", "No."))
    mark, adapter = families.placeholder(name), families.adapter(name)
    counts = [adapter.count(90, 40), adapter.count(40, 30)]
    assert runs(group.prompt.ids == mark) == counts
    assert not group.prompt.counted.any()
    assert group.prompt.images == (0, 1)
    assert group.images == (WIDE, SMALL)
    assert group.grids == (tuple(adapter.grid(*s) for s in ((90, 40), (40, 30))) if name in families.MROPE else ())


def runs(flags: np.ndarray) -> list[int]:
    """Lengths of stretches of True."""
    edges = np.flatnonzero(np.diff(flags.astype(int), prepend=0, append=0))
    return (edges[1::2] - edges[::2]).tolist()


def test_a_picture_in_a_completion_does_not_count() -> None:
    group = encoder("llava")(row(user("Draw."), answer("Here: <image> done", SMALL), "I cannot."))
    assert [one.images for one in (group.prompt, *group.completions)] == [(), (0,), ()]
    first = group.completions[0]
    assert not first.counted[first.ids == families.placeholder("llava")].any()
    assert first.counted.sum() == len(first.ids) - 16


@pytest.mark.parametrize("name", families.VISION)
def test_the_same_picture_twice_stays_two(name: str) -> None:
    group = encoder(name)(row(user("<image><image>Same?", SMALL, SMALL), "Yes.", "No."))
    assert group.prompt.images == (0, 1)
    assert group.images == (SMALL, SMALL)
    count = families.adapter(name).count(40, 30)
    assert (group.prompt.ids == families.placeholder(name)).sum() == 2 * count


@pytest.mark.parametrize("name", families.VISION)
def test_rejected_images_share_less(name: str) -> None:
    """The same answer to another picture: the rows part where the picture begins."""
    prompts = (user("Look: <image>What?", SMALL), user("Look: <image>What?", OTHER))
    group = encoder(name)(Row(prompts[0], (answer("Red."), answer("Red.")), prompts))
    mark = families.placeholder(name)
    assert not (group.prompt.ids == mark).any()
    assert [one.images for one in group.completions] == [(0,), (1,)]
    assert group.images == (SMALL, OTHER)
    assert np.array_equal(group.completions[0].ids, group.completions[1].ids)
    assert group.completions[0].ids[0] == mark
    assert counted_text(group) == ["Red.<|im_end|>"] * 2
    same = encoder(name)(Row(prompts[0], (answer("Red."), answer("Blue.")), (prompts[0],) * 2))
    assert same.prompt.images == (0,)


def test_tags_and_images_must_match() -> None:
    with pytest.raises(BadRow, match="more images than image tags"):
        encoder("llava")(row(user("No tag", SMALL), "Yes."))
    with pytest.raises(BadRow, match="more image tags than images"):
        encoder("llava")(row(user("<image><image>", SMALL), "Yes."))
    with pytest.raises(BadRow, match="text model"):
        encoder("llama")(row(user("<image>What?", SMALL), "Yes."))


# -- length ----------------------------------------------------------------------------------------------------------

WORDS = st.lists(st.sampled_from(["red", "blue", "what is it", "<image>", "2", "one"]), min_size=1, max_size=30)


@st.composite
def rows(draw) -> Row:
    texts = draw(WORDS)
    pictures = tuple(draw(st.sampled_from([SMALL, WIDE, OTHER])) for text in texts if text == "<image>")
    answers = draw(st.lists(st.text("abc ", min_size=1, max_size=60), min_size=1, max_size=3))
    return row(user(" ".join(texts), *pictures), *answers)


@pytest.mark.parametrize("truncation", ["left", "right", "delete"])
@pytest.mark.parametrize("limit", [45, 90, None])
def test_length_is_bounded_and_pictures_stay_whole(truncation: str, limit: int | None) -> None:
    free = encoder("qwen2_vl", max_length=1 << 20)
    encode = encoder("qwen2_vl", max_length=limit, truncation=truncation)
    mark = families.placeholder("qwen2_vl")
    outcomes = set()

    @QUICK
    @given(rows())
    def check(one: Row) -> None:
        whole = free(one)
        cut = attempt(encode, one)
        if cut is None:
            assert limit is not None
            assert whole.longest > limit
            outcomes.add("bad")
            return
        assert limit is None or cut.longest <= limit
        outcomes.add("whole" if cut.longest == whole.longest else "cut")
        assert cut.images == whole.images
        assert cut.grids == whole.grids
        for (ids, flags), (all_ids, all_flags) in zip(sequences(cut), sequences(whole), strict=True):
            assert ids.count(mark) == all_ids.count(mark)
            assert any(flags)
            if limit is None or len(all_ids) <= limit:
                assert truncation == "left" or ids == all_ids
            elif truncation == "right":
                assert ids == all_ids[: len(ids)]
            else:  # left: the prompt's text goes, every answer stays
                assert is_subsequence(ids, all_ids)
                kept, wanted = sum(flags), sum(all_flags)
                assert kept == wanted
                assert ids[-kept:] == all_ids[-kept:]

    check()
    if limit == 45:  # both ways were seen
        assert {"left": "cut", "right": "bad", "delete": "bad"}[truncation] in outcomes


def attempt(encode: Encoder, one: Row) -> Encoded | None:
    """The group, None for a row that is too long."""
    try:
        return encode(one)
    except BadRow as error:
        if error.kind != "longer than max_length":
            raise
        return None


def is_subsequence(short: list[int], long: list[int]) -> bool:
    rest = iter(long)
    return all(token in rest for token in short)


def test_left_drops_the_oldest_text() -> None:
    one = row(user("one two three four five six seven"), "Yes.", "Never in a hundred years.")
    whole = encoder()(one)
    cut = encoder(max_length=whole.longest - 6, truncation="left")(one)
    assert cut.longest == whole.longest - 6
    assert np.array_equal(cut.prompt.ids, whole.prompt.ids[6:])
    assert [a.ids.tolist() for a in cut.completions] == [a.ids.tolist() for a in whole.completions]


def test_right_cuts_only_the_long_completion() -> None:
    one = row(user("Is it?"), "Yes.", "Never in a hundred years, I think.")
    whole = encoder()(one)
    cut = encoder(max_length=whole.longest - 4, truncation="right")(one)
    assert np.array_equal(cut.completions[0].ids, whole.completions[0].ids)
    assert np.array_equal(cut.completions[1].ids, whole.completions[1].ids[:-4])


def test_delete_says_how_long() -> None:
    tokens = encoder("llava")(row(user("<image>What?", SMALL), "A red square.")).longest
    with pytest.raises(BadRow, match=rf"{tokens} tokens, 16 of them from pictures; --max_length is 20"):
        encoder("llava", max_length=20)(row(user("<image>What?", SMALL), "A red square."))


def test_without_a_limit_pictures_are_on_top() -> None:
    encode = encoder("llava")
    about = encode(row(user("<image>" + " red" * 100, SMALL), "x")).longest
    base = encode(row(user("<image>", SMALL), "x")).longest
    fitting = (DEFAULT_TEXT - (base - 16)) * 100 // (about - base)
    longest = encode(row(user("<image>" + " red" * fitting, SMALL), "x")).longest
    assert DEFAULT_TEXT < longest <= DEFAULT_TEXT + 16
    with pytest.raises(BadRow, match=f"{DEFAULT_TEXT} tokens of text are allowed"):
        encode(row(user("<image>" + " red" * (fitting + 9), SMALL), "x"))


def test_spans_are_arrays() -> None:
    span = encoder()(PAIR).prompt
    assert isinstance(span, Span)
    assert span.ids.dtype == np.int32
    assert span.counted.dtype == np.bool_
