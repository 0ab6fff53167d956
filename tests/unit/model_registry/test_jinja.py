"""Cards as Jinja templates."""

from __future__ import annotations

import functools
import random
from typing import Any

import pytest

from swiftlike.core.errors import UserError
from swiftlike.data.template import Template
from swiftlike.datasets_registry.row import IMAGE_TAG, Message, Turns
from swiftlike.model_registry import MODELS, TEMPLATES
from swiftlike.model_registry.card import ModelCard, TemplateCard
from swiftlike.model_registry.jinja import around, template
from swiftlike.model_registry.render import bind, segments
from tests import families

from .conversations import AGAIN, CASES, ROUND, SYSTEM, fits

CARDS = list(TEMPLATES)
PICTURED = [card for card in MODELS if card.vision]
THOUGHT = Message("assistant", "<think>\nhm\n</think>\n\nNorth. ")
WORDS = (
    "{query}",
    "it's",
    '"quoted"',
    "\\n",
    "\n",
    " ",
    "{{ x }}",
    "{% if %}",
    "北",
    "</think>",
    "<think>",
    "",
    "a\tb",
)


def rendered(jinja: str, messages: list[dict[str, Any]], opened: bool) -> str:
    return families.tokenizer().apply_chat_template(
        messages, chat_template=jinja, add_generation_prompt=opened, tokenize=False
    )


def conversations(card: TemplateCard, count: int = 40) -> list[tuple[Message, ...]]:
    """The usual ones, and random ones of words that need care."""
    found = [messages for messages in CASES.values() if fits(card, messages)]
    chance = random.Random(card.name)

    def words() -> str:
        return " ".join(chance.choices(WORDS, k=chance.randint(1, 5)))

    for _ in range(count):
        made = [Message("system", words())] * chance.randint(0, card.system != "" or card.system_in_user != "")
        rounds = chance.randint(1, card.rounds or 3)
        for i in range(rounds):
            made.append(Message("user", words()))
            if card.tool and i and chance.random() < 0.3:
                made[-1:] = [Message("tool", words())] * chance.randint(1, 2)
            made.append(Message("assistant", words()))
        found.append(tuple(made[: len(made) - chance.randint(0, 1)]))
    return found


@pytest.mark.parametrize("system", [None, "", "Be brief."])
@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_same_text_as_in_training(card: TemplateCard, system: str | None) -> None:
    if system and not (card.system or card.system_in_user):
        return
    bound = bind(card, eos="</s>", adds_bos=True, sep="<sep>")
    jinja = template(bound, bos="<s>", system=system)
    for messages in conversations(card):
        opened = messages[-1].role != "assistant"
        text = "".join(piece for piece, _ in segments(bound, messages, opened, system=system))
        if opened and card.moves_space:
            text = text.removesuffix(" ")
        chat = [{"role": one.role, "content": one.content} for one in messages]
        assert rendered(jinja, chat, opened) == ("<s>" if bound.bos else "") + text


@functools.cache
def trained(name: str) -> Template:
    """What a family's own data are templated by."""
    card = MODELS.get(name)
    first = next(iter(card.checkpoints.values())).template
    return Template(families.tokenizer(), TEMPLATES.get(first if first in TEMPLATES else "chatml"), card.vision)


@pytest.mark.parametrize("card", PICTURED, ids=lambda card: card.name)
@pytest.mark.parametrize("own", [False, True], ids=["ours", "checkpoint's"])
def test_pictures_stand_where_training_has_them(card: ModelCard, own: bool) -> None:
    """Parts that are pictures are what `<image>` tags are in data."""
    text = trained(card.name)
    if own:
        text = Template(families.tokenizer(), None, card.vision)
        jinja = around(families.CHATML, vision=card.vision)
    else:
        jinja = template(text.card, bos="<s>", vision=card.vision)
    picture = {"type": "image"}
    for parts in (
        [picture, "What is it?"],
        [picture, "\nWhat is it?"],
        ["Look:", picture, " and ", picture, picture],
        ["Nothing to see."],
    ):
        content = [{"type": "text", "text": one} if isinstance(one, str) else one for one in parts]
        tagged = "".join(one if isinstance(one, str) else IMAGE_TAG for one in parts)
        wanted = text.prompt_text(Turns((Message("user", tagged),)))
        if card.vision.unexpanded:
            wanted = wanted.replace(card.vision.image_text, card.vision.unexpanded)
        bos = "<s>" if not own and text.card.bos else ""
        assert rendered(jinja, [{"role": "user", "content": content}], True) == bos + wanted


def test_own_template_gets_the_system_message_of_the_run() -> None:
    jinja = around(families.CHATML, system="Be brief.")
    asked = [{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "!"}]}]
    assert rendered(jinja, asked, True).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi!<|im")
    own = [{"role": "system", "content": "Sing."}, *asked]
    assert "brief" not in rendered(jinja, own, True)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ((ROUND[0], ROUND[0]), "two user messages"),
        ((ROUND[1],), "no user message before it"),
        ((SYSTEM,), "no user message"),
        ((*ROUND, Message("judge", "x")), "no place for a judge message"),
        ((*ROUND, SYSTEM), "no place for a system message here"),
        (ROUND, "must be the user's"),
        ((ROUND[0], Message("tool", "x")), "follows a user message"),
        ((*ROUND, THOUGHT), "no user message before it"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_training_refuses_is_refused(messages: tuple[Message, ...], message: str) -> None:
    card = TEMPLATES.get("qwen")
    with pytest.raises((UserError, ValueError)):
        segments(card, messages, add_generation_prompt=True)
    chat = [{"role": one.role, "content": one.content} for one in messages]
    with pytest.raises(Exception, match=message):
        rendered(template(card, bos=""), chat, True)


@pytest.mark.parametrize(
    ("card", "messages", "message"),
    [
        ("default-generation", (SYSTEM, ROUND[0]), "no place for a system message"),
        ("default-generation", (*ROUND, AGAIN[0]), "single question"),
        ("gemma", (*ROUND, Message("tool", "x")), "no place for a tool message"),
    ],
)
def test_what_a_format_has_no_place_for(card: str, messages: tuple[Message, ...], message: str) -> None:
    chat = [{"role": one.role, "content": one.content} for one in messages]
    with pytest.raises(Exception, match=message):
        rendered(template(TEMPLATES.get(card), bos=""), chat, True)
