"""Limits of length: what each strategy cuts, and that it never cuts more, less, or a picture."""

from __future__ import annotations

import dataclasses as dc

import families
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swiftlike.args.data import KEPT_PROMPT
from swiftlike.data.encode import Encoded, Encoder
from swiftlike.data.lengths import DEFAULT_TEXT, TEXT, Lengths, Tokens, shared_prefix
from swiftlike.data.template import Template
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import Message, Row, Turns
from swiftlike.datasets_registry.shapes import to_row
from swiftlike.datasets_registry.turns import split_transcript
from swiftlike.model_registry import TEMPLATES

BYTE = families.tokenizer()
PLAIN = TEMPLATES.get("plain")
CUTTING = ("left", "left_each", "right", "keep_end", "keep_start")
QUICK = settings(max_examples=150, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
BOS = 1


def tokens(prompt: list[int], answer: list[int], owner: list[int] | None = None) -> Tokens:
    """A sequence whose tokens are told apart by their ids."""
    ids = np.array([*prompt, *answer], np.int32)
    counted = np.arange(len(ids)) >= max(len(prompt), 1)
    owners = np.full(len(ids), TEXT, np.int32)
    owners[: len(owner or [])] = owner or []
    return Tokens(ids, counted, owners, len(prompt))


def texts(rows: list[Tokens]) -> list[list[int]]:
    return [one.ids.tolist() for one in rows]


def attempt(rule: Lengths, rows: list[Tokens]) -> list[Tokens] | None:
    """What is left of the rows, None when they cannot be brought within the limits."""
    try:
        return rule.cut(rows)
    except BadRow as error:
        if error.kind != "longer than max_length":
            raise
        return None


@st.composite
def groups(draw: st.DrawFn, pictures: bool = False) -> list[Tokens]:
    """A prompt, perhaps with <s> and pictures in it, and up to three answers."""
    length = draw(st.integers(1, 30))
    prompt = [BOS] * draw(st.booleans()) + list(range(100, 100 + length))
    owner = [TEXT] * len(prompt)
    for picture in range(draw(st.integers(0, 2)) if pictures else 0):
        at = draw(st.integers(len(prompt) - length, len(prompt)))
        size = draw(st.integers(1, 5))
        if at == len(prompt) or owner[at] == TEXT:
            prompt[at:at], owner[at:at] = [7] * size, [picture] * size
    sizes = draw(st.lists(st.integers(1, 25), min_size=1, max_size=3))
    return [tokens(prompt, [1000 * (k + 1) + i for i in range(n)], owner) for k, n in enumerate(sizes)]


@st.composite
def limits(draw: st.DrawFn) -> Lengths:
    total = draw(st.integers(4, 40))
    return Lengths(
        total=total,
        prompt=draw(st.none() | st.integers(1, total - 1)),
        completion=draw(st.none() | st.integers(1, total)),
        strategy=draw(st.sampled_from(CUTTING)),
        bos=draw(st.sampled_from([None, BOS])),
        whole=draw(st.booleans()),
    )


@QUICK
@given(limits(), groups(pictures=True))
def test_nothing_is_longer_than_it_may_be(rule: Lengths, rows: list[Tokens]) -> None:
    cut = attempt(rule, rows)
    if cut is None:
        return
    assert len(cut) == len(rows)
    kept = rule.strategy.startswith("keep")
    for one, was in zip(cut, rows, strict=True):
        assert len(one.ids) <= rule.total
        assert rule.prompt is None or kept or one.start <= rule.prompt
        assert rule.completion is None or len(one.ids) - one.start <= rule.completion
        assert np.array_equal(one.ids[one.owner != TEXT], was.ids[was.owner != TEXT])
        assert (one.counted[max(one.start, 1) :]).all()
        assert not one.counted[: max(one.start, 1)].any()
        assert rule.whole or one.counted.any()
        assert set(one.ids.tolist()) <= set(was.ids.tolist())
        if rule.bos == was.ids[0]:
            assert one.ids[0] == rule.bos


@QUICK
@given(limits(), groups(pictures=True))
def test_what_fits_is_left_alone(rule: Lengths, rows: list[Tokens]) -> None:
    longest = max(len(one.ids) for one in rows)
    roomy = dc.replace(rule, total=longest, prompt=None, completion=None)
    assert texts(roomy.cut(rows)) == texts(rows)


@QUICK
@given(limits(), groups(pictures=True))
def test_left_keeps_what_is_shared_and_every_answer(rule: Lengths, rows: list[Tokens]) -> None:
    rule = dc.replace(rule, strategy="left", completion=None)
    cut = attempt(rule, rows)
    if cut is None:
        return
    prompts = {tuple(one.ids[: one.start]) for one in cut}
    assert len(prompts) == 1
    assert shared_prefix(cut) == cut[0].start
    answers = [one.ids[one.start :].tolist() for one in cut]
    assert answers == [one.ids[one.start :].tolist() for one in rows]
    assert max(len(one.ids) for one in cut) == min(rule.total, *_longest(rule, rows))


def _longest(rule: Lengths, rows: list[Tokens]) -> tuple[int, int]:
    """Tokens before the cut, and after a cut of the prompt to its own limit."""
    longest = max(len(one.ids) for one in rows)
    return longest, longest - max(rows[0].start - (rule.prompt or rows[0].start), 0)


@QUICK
@given(groups(), st.integers(4, 40), st.integers(1, 12), st.booleans())
def test_exo(rows: list[Tokens], total: int, answer: int, whole: bool) -> None:
    """Each answer loses its end, then each sequence its beginning; <s> stays in front."""
    rule = Lengths(total=total, completion=answer, strategy="left_each", bos=BOS, whole=whole)
    wanted = []
    for one in rows:
        ids = one.ids.tolist()[: one.start + answer]
        first = [BOS] if ids[0] == BOS else []
        wanted.append(ids if len(ids) <= total else first + ids[len(ids) - total + len(first) :])
    if whole or answer < total:
        assert texts(rule.cut(rows)) == wanted


@QUICK
@given(groups(), st.integers(4, 40), st.data(), st.sampled_from(["keep_end", "keep_start"]))
def test_beta_dpo(rows: list[Tokens], total: int, data: st.DataObject, side: str) -> None:
    """The prompt is cut to its limit even where less would do, and only then the answers."""
    limit = data.draw(st.integers(1, total - 1))
    rule = Lengths(total=total, prompt=limit, strategy=side)
    prompt, answers = rows[0].ids[: rows[0].start].tolist(), [one.ids[one.start :].tolist() for one in rows]
    longest = max(map(len, answers))
    if len(prompt) + longest > total:
        prompt = prompt[-limit:] if side == "keep_end" else prompt[:limit]
    if len(prompt) + longest > total:
        answers = [one[: total - limit] for one in answers]
    assert texts(rule.cut(rows)) == [prompt + one for one in answers]


def test_without_a_limit_for_prompts() -> None:
    rows = [tokens(list(range(1000, 2000)), list(range(300)))]
    (cut,) = Lengths(total=600, strategy="keep_end").cut(rows)
    assert (cut.start, len(cut.ids)) == (KEPT_PROMPT, KEPT_PROMPT + 300)
    (cut,) = Lengths(strategy="keep_start").cut([tokens(list(range(DEFAULT_TEXT)), [1])])
    assert cut.ids.tolist() == [*range(KEPT_PROMPT), 1]


def test_left_each_parts_prompts_that_left_keeps_together() -> None:
    prompt = list(range(100, 110))
    rows = [tokens(prompt, [1, 2, 3, 4, 5]), tokens(prompt, [6])]
    each, shared = (Lengths(total=12, strategy=how).cut(rows) for how in ("left_each", "left"))
    assert texts(each) == [[*prompt[3:], 1, 2, 3, 4, 5], [*prompt, 6]]
    assert texts(shared) == [[*prompt[3:], 1, 2, 3, 4, 5], [*prompt[3:], 6]]


def test_prompts_that_are_too_long() -> None:
    rows = [tokens(list(range(100, 110)), [1, 2])]
    for strategy in ("left", "left_each", "right"):
        assert texts(Lengths(total=50, prompt=4, strategy=strategy).cut(rows)) == [[106, 107, 108, 109, 1, 2]]
    assert texts(Lengths(total=50, prompt=4, strategy="keep_end").cut(rows)) == texts(rows)
    with pytest.raises(BadRow, match="a prompt of 10 tokens; --max_prompt_length is 4"):
        Lengths(total=50, prompt=4).cut(rows)


@pytest.mark.parametrize("strategy", CUTTING)
def test_a_picture_that_leaves_no_room(strategy: str) -> None:
    row = tokens([7] * 9 + [100, 101], [1, 2], [0] * 9)
    with pytest.raises(BadRow, match="longer than max_length"):
        Lengths(total=8, prompt=4, strategy=strategy).cut([row])
    drawn = dc.replace(row, start=0)
    with pytest.raises(BadRow, match="a picture in an answer would be cut"):
        Lengths(total=50, completion=5, strategy=strategy).cut([drawn])


def test_an_answer_that_would_vanish() -> None:
    rows = [tokens(list(range(100, 110)), [1, 2]), tokens([100, 101], [3])]
    with pytest.raises(BadRow, match="leave nothing of an answer"):
        Lengths(total=8, strategy="right").cut(rows)
    whole = Lengths(total=8, strategy="right", whole=True).cut(rows)
    assert texts(whole) == [list(range(100, 108)), [100, 101, 3]]
    assert [bool(one.counted.any()) for one in whole] == [False, True]
    assert shared_prefix(whole) == 2


# -- from rows -------------------------------------------------------------------------------------------------------


def row(prompt: str, *answers: str) -> Row:
    return Row(Turns((Message("user", prompt),)), tuple(Turns((Message("assistant", one),)) for one in answers))


def texts_of(group: Encoded) -> list[str]:
    return [BYTE.decode([*group.prompt.ids, *one.ids]) for one in group.completions]


def test_limits_reach_the_rows() -> None:
    encode = Encoder(template=Template(BYTE, PLAIN), max_length=12, max_completion_length=4, truncation="left_each")
    group = encode(row("01234567890123456789", "xyz", "uvwxyz"))
    assert [len(group.prompt.ids) + len(one.ids) for one in group.completions] == [12, 12]
    assert texts_of(group) == ["23456789xyz<|im_end|>", "23456789uvwx"]


@pytest.mark.parametrize(("card", "first"), [(PLAIN, False), (dc.replace(PLAIN, bos=True), True)])
def test_bos_stays_where_there_is_one(card, first: bool) -> None:
    group = Encoder(template=Template(BYTE, card), max_length=8, truncation="left")(row("abcdefghijk", "xyz"))
    assert texts_of(group) == ["<s>ijkxyz<|im_end|>" if first else "hijkxyz<|im_end|>"]
    loses = dc.replace(card, bos_stays=False)
    group = Encoder(template=Template(BYTE, loses), max_length=8, truncation="left")(row("abcdefghijk", "xyz"))
    assert texts_of(group) == ["hijkxyz<|im_end|>"]


def test_only_the_last_answer_of_a_conversation_has_a_limit() -> None:
    talk = Turns((Message("user", "a"), Message("assistant", "fghij"), Message("user", "b")))
    one = Row(talk, (Turns((Message("assistant", "uvwxyz"),)),))
    group = Encoder(template=Template(BYTE, PLAIN), max_completion_length=3, every=True)(one)
    assert texts_of(group) == ["afghij<|im_end|>\n\nbuvw"]
    counted = np.concatenate([group.prompt.counted, group.completions[0].counted])
    assert counted.sum() == len("fghij") + 1 + 3


# -- text as it is ---------------------------------------------------------------------------------------------------


def test_a_space_stays_with_the_prompt_it_ends() -> None:
    group = Encoder(template=Template(BYTE, PLAIN))(row("a: ", "yes", "no"))
    assert BYTE.decode(group.prompt.ids) == "a: "
    group = Encoder(template=Template(BYTE, TEMPLATES.get("default-generation")))(row("a: ", "yes", "no"))
    assert BYTE.decode(group.prompt.ids) == "a:"


HH = "\n\nHuman: hi  there\n\nAssistant: hello \n\nHuman: bye\n\nAssistant:"


@pytest.mark.parametrize(
    "record",
    [
        {"chosen": f"{HH} see you\n", "rejected": f"{HH} no"},
        {"prompt": HH, "chosen": " see you\n", "rejected": " no"},
    ],
    ids=["two transcripts", "a prompt of its own"],
)
def test_transcripts_stay_the_text_they_are(record: dict[str, str]) -> None:
    group = Encoder(template=Template(BYTE, PLAIN))(to_row(record, "pair")[0])
    assert BYTE.decode(group.prompt.ids) == HH
    assert [BYTE.decode(one.ids) for one in group.completions] == [" see you\n<|im_end|>", " no<|im_end|>"]
    assert split_transcript(f"{HH} see you\n") == (HH, " see you\n")
    assert Template(BYTE, PLAIN).prompt_text(to_row(record, "pair")[0].prompt) == HH


def test_transcripts_are_conversations_to_a_chat_template() -> None:
    whole = to_row({"chosen": f"{HH} see you\n", "rejected": f"{HH} no"}, "pair")[0]
    group = Encoder(template=Template(BYTE, TEMPLATES.get("chatml")))(whole)
    assert BYTE.decode(group.prompt.ids).startswith("<|im_start|>user\nhi  there<|im_end|>\n<|im_start|>assistant")
    assert BYTE.decode(group.completions[1].ids) == "no<|im_end|>"


def test_a_system_message_goes_before_a_transcript() -> None:
    one = to_row({"system": "Be kind.", "prompt": HH, "chosen": " a", "rejected": " b"}, "pair")[0]
    group = Encoder(template=Template(BYTE, PLAIN))(one)
    assert BYTE.decode(group.prompt.ids) == f"Be kind.\n\n{HH}"


def test_nobody_answers() -> None:
    with pytest.raises(BadRow, match="no Assistant: in it"):
        split_transcript("\n\nHuman: hi")
