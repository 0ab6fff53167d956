"""What is sent to the model is token for token what training saw before the answer."""

from __future__ import annotations

import io
import operator

import pytest

from swiftlike.data.encode import Encoder
from swiftlike.data.template import Template
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import Image, Message, Row, Turns
from swiftlike.engines.base import Request
from swiftlike.engines.prompts import Prompts
from swiftlike.model_registry import TEMPLATES
from tests import families

BYTE = families.tokenizer()
FIRST, ALWAYS = families.prefix_space_tokenizer("first"), families.prefix_space_tokenizer("always")
TOKENIZERS = {"byte": BYTE, "first": FIRST, "always": ALWAYS}
SINGLE = [Message("user", "Is it red?")]
TALK = [*SINGLE, Message("assistant", "No, it is blue."), Message("user", "\nAre you  sure? ")]
SYSTEM = [Message("system", "Be kind."), *TALK]
TALKS = {"single": SINGLE, "talk": TALK, "system": SYSTEM}
IDS, COUNTED = operator.attrgetter("ids"), operator.attrgetter("counted")
ANSWER = Turns((Message("assistant", "Yes, it is."),))


def trained(template: Template, turns: Turns, every: bool = False, adapter=None) -> list[int]:
    """What a training row has before its last answer."""
    encode = Encoder(template=template, adapter=adapter, every=every, max_length=1 << 20)
    group = encode(Row(turns, (ANSWER,)))
    spans = (group.prompt, *group.completions)
    ids, counted = ([one for span in spans for one in values(span).tolist()] for values in (IDS, COUNTED))
    end = len(counted) - counted[::-1].index(True)
    return ids[: end - counted[:end][::-1].index(False)]


def sent(template: Template, turns: Turns, every: bool = False, adapter=None, **more) -> list[int]:
    prompts = Prompts(template=template, adapter=adapter, every=every, placeholder=more.pop("placeholder", None))
    return list(prompts.ids(Request(prompt=turns, **more)).ids)


def equal(template: Template, turns: Turns, every: bool, **more) -> None:
    try:
        expected = trained(template, turns, every, more.get("adapter"))
    except BadRow as error:  # a format for one round, or without a system message: using refuses what training refuses
        with pytest.raises(BadRow, match=error.kind):
            sent(template, turns, every, **more)
        return
    assert sent(template, turns, every, **more) == expected


@pytest.mark.parametrize("every", [False, True], ids=["preferences", "sft"])
@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_every_template_is_as_in_training(tokenizer: str, talk: str, every: bool) -> None:
    for card in TEMPLATES:
        equal(Template(TOKENIZERS[tokenizer], card), Turns(tuple(TALKS[talk])), every)


@pytest.mark.parametrize("talk", TALKS)
def test_own_jinja_template_is_as_in_training(talk: str) -> None:
    template = Template(BYTE, None)
    equal(template, Turns(tuple(TALKS[talk])), every=False)
    equal(template, Turns(tuple(TALKS[talk])), every=True)


def png(width: int, height: int) -> Image:
    file = io.BytesIO()
    families.picture(width, height).save(file, "PNG")
    return Image(file.getvalue())


@pytest.mark.parametrize("name", families.VISION)
def test_pictures_in_any_turn_are_as_in_training(name: str) -> None:
    template = Template(families.tokenizer(), TEMPLATES.get("chatml"), families.card(name).vision)
    messages = (
        Message("user", "<image>What is it?"),
        Message("assistant", "A square."),
        Message("user", "And these: <image><image>?"),
    )
    turns = Turns(messages, (png(40, 90), png(56, 28), png(200, 30)))
    adapter, placeholder = families.adapter(name), families.placeholder(name)
    equal(template, turns, False, adapter=adapter, placeholder=placeholder)
    prepared = Prompts(template=template, adapter=adapter, placeholder=placeholder).ids(Request(prompt=turns))
    assert len(prepared.pictures) == 3
    features = sum(adapter.count(*size) for size in ((40, 90), (56, 28), (200, 30)))
    assert prepared.ids.count(placeholder) == features
    assert len(prepared.grids) == (3 if adapter.mrope else 0)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_a_begun_answer_is_as_in_training(tokenizer: str) -> None:
    """The ids of an answer's beginning are those that the whole answer begins with."""
    for card in TEMPLATES:
        template = Template(TOKENIZERS[tokenizer], card)
        begun = Turns((*SINGLE, Message("assistant", "Yes,")))
        ids = sent(template, begun, continue_last=True)
        encode = Encoder(template=template, max_length=1 << 20)
        group = encode(Row(Turns(tuple(SINGLE)), (ANSWER,)))
        whole = [*group.prompt.ids.tolist(), *group.completions[0].ids.tolist()]
        assert whole[: len(ids)] == ids, card.name
        assert len(ids) > len(group.prompt.ids)


def test_a_text_gets_one_first_token() -> None:
    from tests.unit.data.test_template import with_bos

    eager = FIRST.__class__(tokenizer_object=with_bos(FIRST), bos_token="<s>", eos_token="</s>")
    prompts = Prompts(template=Template(eager, TEMPLATES.get("default-generation")))
    for text in ("Is it red?", "<s>Is it red?"):
        assert prompts.ids(Request(prompt=text)).ids.count(eager.bos_token_id) == 1
    assert prompts.ids(Request(prompt=(5, 6))).ids == (5, 6)


CHATML = Template(BYTE, TEMPLATES.get("chatml"))
LLAVA = Template(BYTE, TEMPLATES.get("chatml"), families.card("llava").vision)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (Request(prompt=""), "empty prompt"),
        (Request(prompt=()), "empty prompt"),
        (Request(prompt=Turns(())), "no messages"),
        (Request(prompt=(1, 10**6)), "1000000 is not between 0 and"),
        (Request(prompt=(-1,)), "-1 is not between 0 and"),
        (Request(prompt=tuple(range(50))), "50 tokens; prompt and answer may have 40 together"),
        (Request(prompt=Turns((Message("user", "a"), Message("user", "b")))), "two user messages"),
        (Request(prompt=Turns((*SINGLE, ANSWER.messages[0]))), "the last message is the assistant's"),
        (Request(prompt=Turns(tuple(SINGLE)), tools="[]"), "no place for tool definitions"),
        (Request(prompt=Turns(tuple(SINGLE), (Image(b"x"),))), "images for a text model"),
    ],
)
def test_what_cannot_be_answered_says_why(request_: Request, reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        Prompts(template=CHATML, context=40).ids(request_)


@pytest.mark.parametrize(
    ("text", "images", "reason"),
    [
        ("<image>What?", (), "more image tags than images"),
        ("What?", (png(28, 28),), "more images than image tags"),
        ("<image>What?", (Image(b"not a picture"),), "image"),
        ("<image>What?", (Image("/etc/passwd"),), "image"),
    ],
)
def test_pictures_that_cannot_be_read_say_why(text: str, images: tuple[Image, ...], reason: str) -> None:
    prompts = Prompts(template=LLAVA, adapter=families.adapter("llava"), placeholder=families.placeholder("llava"))
    with pytest.raises(BadRow, match=reason):
        prompts.ids(Request(prompt=Turns((Message("user", text),), images)))


def test_ids_cannot_bring_a_placeholder_without_its_picture() -> None:
    mark = families.placeholder("llava")
    prompts = Prompts(template=LLAVA, adapter=families.adapter("llava"), placeholder=mark)
    with pytest.raises(BadRow, match="more image tags than images"):
        prompts.ids(Request(prompt=(5, mark, 6)))


@pytest.mark.parametrize("card", ["chatml", "llama", "vicuna", "gemma"])
def test_ends_of_answers(card: str) -> None:
    """What training puts behind an answer ends one."""
    template = Template(BYTE, TEMPLATES.get(card))
    prompts = Prompts(template=template)
    assert BYTE.eos_token_id in prompts.ends
    pieces = template.ids(template.pieces(Turns(tuple(SINGLE)), ANSWER))
    answer = pieces[-1][0]
    assert prompts.ends & set(answer) or any(stop in BYTE.decode(answer) for stop in prompts.stops)
