"""Messages to text."""

from __future__ import annotations

import json

import pytest

from swiftlike.core.errors import UserError
from swiftlike.datasets_registry.row import Message
from swiftlike.model_registry import TEMPLATES
from swiftlike.model_registry.card import TemplateCard
from swiftlike.model_registry.render import bind, segments

from .conversations import AGAIN, CASES, GOLDEN, ROUND, SYSTEM, fits, text, written

CARDS = list(TEMPLATES)
AIPO = [
    case
    for case in json.loads((GOLDEN.parent / "aipo_pipeline.json").read_text(encoding="utf-8"))["cases"]
    if case["loss"] == "chat_template"
]


def said(role: str, content: str = "x") -> Message:
    return Message(role, content)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_golden(card: TemplateCard) -> None:
    assert written(card) == (GOLDEN / f"{card.name}.txt").read_text(encoding="utf-8")


def test_no_golden_without_card() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(TEMPLATES.names())


@pytest.mark.parametrize("case", AIPO, ids=lambda case: case["name"])
def test_as_aipo_renders(case: dict) -> None:
    card = TEMPLATES.get(case["params"]["template"])
    messages = [Message(**message) for message in case["inputs"]["messages"]]
    wanted = case["outputs"]["text_with_generation_prompt"].removeprefix("<s>")
    assert text(card, tuple(messages)) == wanted


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_one_piece_for_each_answer(card: TemplateCard) -> None:
    for messages in CASES.values():
        if fits(card, messages):
            pieces = segments(card, messages, messages[-1].role != "assistant")
            answers = [piece for piece, is_answer in pieces if is_answer]
            wanted = [message.content.strip() for message in messages if message.role == "assistant"]
            assert len(answers) == len(wanted)
            assert all(one in found and found.endswith(card.stop) for found, one in zip(answers, wanted, strict=True))


@pytest.mark.parametrize("card", [card for card in CARDS if not card.system_in_last], ids=lambda card: card.name)
def test_prompt_begins_the_whole(card: TemplateCard) -> None:
    for messages in CASES.values():
        if fits(card, messages) and messages[-1].role == "assistant":
            prompt = "".join(piece for piece, _ in segments(card, messages[:-1], add_generation_prompt=True))
            whole = segments(card, messages)
            assert "".join(piece for piece, _ in whole[:-1]) == prompt
            assert whole[-1][1]


def test_braces_in_texts_stay() -> None:
    card = TEMPLATES.get("gemma")
    messages = (Message("system", "{query}"), Message("user", "{system} {0}"), Message("assistant", "{answer}"))
    assert "{query}\n\n{system} {0}<end_of_turn>" in text(card, messages)
    assert text(card, messages).endswith("model\n{answer}<end_of_turn>")


class TestSystem:
    def test_own_goes_before_given(self) -> None:
        assert "sailor" in text(TEMPLATES.get("qwen"), (SYSTEM, *ROUND), system="Be brief.")
        assert "Be brief" not in text(TEMPLATES.get("qwen"), (SYSTEM, *ROUND), system="Be brief.")

    def test_given_goes_before_default(self) -> None:
        assert text(TEMPLATES.get("qwen"), ROUND, system="Be brief.").startswith(
            "<|im_start|>system\nBe brief.<|im_end|>"
        )

    def test_none_is_the_default(self) -> None:
        assert "system\nYou are a helpful assistant.<" in text(TEMPLATES.get("qwen"), ROUND, system=None)

    @pytest.mark.parametrize("messages", [ROUND, (Message("system", ""), *ROUND)])
    def test_empty_is_none(self, messages: tuple[Message, ...]) -> None:
        assert text(TEMPLATES.get("qwen"), messages).startswith("<|im_start|>user")

    def test_in_the_last_turn(self) -> None:
        found = text(TEMPLATES.get("mistral-nemo"), (SYSTEM, *ROUND, *AGAIN))
        assert found.startswith("[INST]Which way")
        assert "[INST]Answer like a sailor.\n\n And" in found

    def test_refused_without_a_place(self) -> None:
        with pytest.raises(UserError, match=r"'default-generation' has no place for a system message"):
            text(TEMPLATES.get("default-generation"), (SYSTEM, *ROUND))


class TestThinking:
    card = TEMPLATES.get("qwen3")

    def test_last_answer_gets_an_empty_block_that_counts(self) -> None:
        assert segments(self.card, ROUND)[-1] == ("<think>\n\n</think>\n\nTowards the cold, mate.<|im_end|>", True)

    def test_own_thoughts_stay_in_the_last_answer_only(self) -> None:
        thought = Message("assistant", "<think>\nhm\n</think>\n\nNorth.")
        found = segments(self.card, (ROUND[0], thought, AGAIN[0], thought))
        assert [piece for piece, is_answer in found if is_answer] == [
            "North.<|im_end|>",
            "<think>\nhm\n</think>\n\nNorth.<|im_end|>",
        ]


class TestTools:
    def test_results_are_a_user_turn(self) -> None:
        messages = (*ROUND, said("tool", "12"), said("tool", "13"), said("assistant", "25"))
        assert (
            "<|im_start|>user\n<tool_response>\n12\n</tool_response>\n<tool_response>\n13\n</tool_response><|im_end|>"
        ) in text(TEMPLATES.get("qwen2_5"), messages)

    def test_refused_without_a_place(self) -> None:
        with pytest.raises(UserError, match="no place for tool results"):
            text(TEMPLATES.get("gemma"), (*ROUND, said("tool"), said("assistant")))

    def test_refused_after_a_question(self) -> None:
        with pytest.raises(UserError, match="follows a user message"):
            text(TEMPLATES.get("qwen"), (said("user"), said("tool"), said("assistant")))


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ("user user assistant", "two user messages"),
        ("assistant", "no user message before it"),
        ("user assistant assistant", "no user message before it"),
        ("user system assistant", "can only be the first"),
        ("user judge", "can only be the first"),
        ("system", "there is no user message"),
        ("", "there is no user message"),
    ],
)
def test_order_of_roles(roles: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        segments(TEMPLATES.get("chatml"), [said(role) for role in roles.split()])


def test_single_round_formats() -> None:
    with pytest.raises(UserError, match="single question and answer, not 2 rounds"):
        segments(TEMPLATES.get("default-generation"), (*ROUND, *AGAIN))


def test_generation_prompt_must_fit() -> None:
    with pytest.raises(ValueError, match="add_generation_prompt"):
        segments(TEMPLATES.get("chatml"), ROUND, add_generation_prompt=True)
    with pytest.raises(ValueError, match="add_generation_prompt"):
        segments(TEMPLATES.get("chatml"), ROUND[:1])


def test_bind() -> None:
    card = bind(TEMPLATES.get("default-generation"), eos="</s>", adds_bos=False)
    assert (card.stop, card.bos) == ("</s>", False)
    assert bind(TEMPLATES.get("default-generation"), eos="</s>", adds_bos=True).bos is True
    assert bind(TEMPLATES.get("gemma"), eos="</s>", adds_bos=False).bos is True
