"""Text to tokens: what counts, borders between pieces, beginnings, pictures, the checkpoint's own template."""

from __future__ import annotations

import copy
import dataclasses as dc

import families
import pytest

from swiftlike.core.errors import UserError
from swiftlike.data.template import Piece, Template
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.row import Message, Turns
from swiftlike.model_registry import TEMPLATES
from swiftlike.model_registry.card import TemplateCard

BYTE = families.tokenizer()
FIRST, ALWAYS = families.prefix_space_tokenizer("first"), families.prefix_space_tokenizer("always")
CHATML = TEMPLATES.get("chatml")


def turns(*texts: str, start: str = "user", system: str | None = None) -> Turns:
    """Alternating messages."""
    roles = ("user", "assistant") if start == "user" else ("assistant", "user")
    spoken = [Message(roles[i % 2], text) for i, text in enumerate(texts)]
    return Turns((*([Message("system", system)] if system is not None else []), *spoken))


def joined(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def counted(pieces: list[Piece]) -> list[str]:
    return [piece.text for piece in pieces if piece.counted]


QUESTION, ANSWER = turns("Is it red?"), turns("Yes, it is.", start="assistant")
TALK = turns("Is it red?", "No.", "Blue?")


# -- what counts -----------------------------------------------------------------------------------------------------


def test_the_answer_and_its_stop_count() -> None:
    pieces = Template(BYTE, CHATML).pieces(QUESTION, ANSWER)
    text = "<|im_start|>user\nIs it red?<|im_end|>\n<|im_start|>assistant\nYes, it is.<|im_end|>"
    assert joined(pieces) == text
    assert counted(pieces) == ["Yes, it is.<|im_end|>"]


def test_every_counts_earlier_answers_unless_the_data_says_no() -> None:
    template = Template(BYTE, CHATML)
    assert counted(template.pieces(TALK, ANSWER)) == ["Yes, it is.<|im_end|>"]
    assert counted(template.pieces(TALK, ANSWER, every=True)) == ["No.<|im_end|>", "Yes, it is.<|im_end|>"]
    quiet = Turns(tuple(dc.replace(m, trained=m.role != "assistant") for m in TALK.messages))
    assert counted(template.pieces(quiet, ANSWER, every=True)) == ["Yes, it is.<|im_end|>"]


def test_all_answers_of_a_longer_completion_count() -> None:
    completion = turns("One.", "And?", "Two.", start="assistant")
    assert counted(Template(BYTE, CHATML).pieces(TALK, completion)) == ["One.<|im_end|>", "Two.<|im_end|>"]


@pytest.mark.parametrize(
    ("own", "flag", "default", "wanted"),
    [
        (None, None, "", None),
        (None, None, "card", "card"),
        (None, "flag", "card", "flag"),
        (None, "", "card", None),
        ("row", "flag", "card", "row"),
    ],
)
def test_which_system_message(own: str | None, flag: str | None, default: str, wanted: str | None) -> None:
    template = Template(BYTE, dc.replace(CHATML, default_system=default), system=flag)
    text = joined(template.pieces(turns("Hi", system=own), ANSWER))
    assert text.startswith("<|im_start|>user" if wanted is None else f"<|im_start|>system\n{wanted}<|im_end|>")
    assert template.prompt_text(turns("Hi", system=own)) + "Yes, it is.<|im_end|>" == text


def test_what_the_template_cannot_show_is_a_bad_row() -> None:
    with pytest.raises(BadRow, match="no place for a system message"):
        Template(BYTE, dc.replace(CHATML, system="")).pieces(turns("Hi", system="Be kind."), ANSWER)
    with pytest.raises(BadRow, match="tool"):
        Template(BYTE, CHATML).pieces(QUESTION, ANSWER, tools="[]")


# -- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", families.VISION)
def test_tags_become_the_familys_text(name: str) -> None:
    card = families.card(name).vision
    text = joined(Template(BYTE, CHATML, card).pieces(turns("<image>What? <image>"), ANSWER))
    assert text.count(card.placeholder) == 2
    assert f"user\n{card.image_text}{card.after}What? {card.image_text}{card.after}<|im_end|>" in text
    again = joined(Template(BYTE, CHATML, card).pieces(turns(f"<image>{card.after}What?"), ANSWER))
    assert f"{card.image_text}{card.after}What?" in again  # not doubled


def test_a_placeholder_in_the_text_is_a_bad_row() -> None:
    template = Template(BYTE, CHATML, families.card("qwen2_vl").vision)
    with pytest.raises(BadRow, match="placeholder in text"):
        template.pieces(turns("Say <|image_pad|>"), ANSWER)


# -- the checkpoint's own template -----------------------------------------------------------------------------------


def chat(template: str = families.CHATML, tokenizer=BYTE):
    made = copy.copy(tokenizer)
    made.chat_template = template
    return made


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("prompt", [QUESTION, TALK, turns("Hi", system="Be kind.")])
def test_own_template_equals_the_card(prompt: Turns, every: bool) -> None:
    own, card = Template(chat(), None), Template(BYTE, CHATML)
    ours, theirs = (one.pieces(prompt, ANSWER, every) for one in (own, card))
    assert joined(ours) == joined(theirs)
    assert counted(ours) == counted(theirs)
    assert own.ids(ours) == card.ids(theirs)
    assert own.prompt_text(prompt) == card.prompt_text(prompt)


def test_own_template_is_needed() -> None:
    with pytest.raises(UserError, match="no chat template"):
        Template(chat(""), None)


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('only one turn') }}",
        "{% for m in messages %}{{ messages | length }}{{ m['content'] }}{% endfor %}",  # rewrites earlier turns
    ],
)
def test_own_template_that_cannot_be_used_is_a_bad_row(template: str) -> None:
    with pytest.raises(BadRow, match="chat template"):
        Template(chat(template), None).pieces(TALK, ANSWER, every=True)


def test_own_template_gets_the_tools() -> None:
    template = "{{ tools | length if tools else 0 }}" + families.CHATML
    own = Template(chat(template), None)
    assert joined(own.pieces(QUESTION, ANSWER, tools='[{"a": 1}, {"b": 2}]')).startswith("2<|im_start|>")
    assert joined(own.pieces(QUESTION, ANSWER)).startswith("0<|im_start|>")


# -- tokens ----------------------------------------------------------------------------------------------------------

WHOLE = [("chatml", BYTE), ("zephyr", BYTE), ("mistral", FIRST), ("mistral", ALWAYS), ("llava1_5", FIRST)]
WHOLE += [("llava1_5", ALWAYS), ("mistral-nemo", FIRST), ("zephyr", FIRST), ("chatml", ALWAYS), ("vicuna", FIRST)]


def flat(parts: list[tuple[list[int], bool]]) -> list[int]:
    return [token for ids, _ in parts for token in ids]


@pytest.mark.parametrize(("name", "tokenizer"), WHOLE)
@pytest.mark.parametrize("prompt", [QUESTION, TALK])
def test_pieces_join_to_the_tokens_of_the_whole_text(name: str, tokenizer, prompt: Turns) -> None:
    """Where no token would span a border, encoding piece by piece changes nothing: no space is added or lost."""
    template = Template(tokenizer, TEMPLATES.get(name))
    pieces = template.pieces(prompt, ANSWER, every=True)
    whole = tokenizer(joined(pieces), add_special_tokens=False)["input_ids"]
    bos = [tokenizer.bos_token_id] if template.card.bos else []
    parts = template.ids(pieces)
    assert flat(parts) == bos + whole
    assert [kind for _, kind in parts] == [False, True] * len(counted(pieces))
    for (ids, _), text in zip([part for part in parts if part[1]], counted(pieces), strict=True):
        assert tokenizer.decode(ids).strip() == text.strip()


@pytest.mark.parametrize("tokenizer", [BYTE, FIRST, ALWAYS], ids=["byte", "first", "always"])
@pytest.mark.parametrize("start", ["", " ", "\n", "\n\n", "x"])
def test_no_character_is_lost_at_a_border(tokenizer, start: str) -> None:
    template = Template(tokenizer, CHATML)
    pieces = [Piece("one:", False), Piece(start + "two", True), Piece(start + "three", False), Piece("yes", True)]
    decoded = "".join(tokenizer.convert_ids_to_tokens(flat(template.ids(pieces))))
    text = tokenizer.backend_tokenizer.decoder.decode(tokenizer.convert_ids_to_tokens(flat(template.ids(pieces))))
    assert text.strip() == f"one:{start}two{start}threeyes", decoded


def test_what_others_left_set_in_a_tokenizer_changes_nothing() -> None:
    """Padding and truncation of one call stay set in the tokenizer's core."""
    tokenizer = families.tokenizer()
    template = Template(tokenizer, CHATML)
    pieces = template.pieces(QUESTION, ANSWER)
    wanted = template.ids(pieces)
    tokenizer(["a", "a much longer text"], padding="max_length", truncation=True, max_length=3)
    assert tokenizer.backend_tokenizer.padding
    assert template.ids(pieces) == wanted


def test_a_tokenizer_that_does_more_than_its_core_is_asked_itself() -> None:
    class Louder(type(BYTE)):
        def _encode_plus(self, text, *args, **kwargs):
            return super()._encode_plus(text + "!", *args, **kwargs)

    tokenizer = copy.deepcopy(BYTE)
    tokenizer.__class__ = Louder
    parts = Template(tokenizer, CHATML).ids([Piece("yes", True)])
    assert BYTE.decode(flat(parts)) == "yes!"


def test_a_space_at_the_end_of_the_prompt_goes_to_the_answer() -> None:
    parts = Template(BYTE, CHATML).ids([Piece("Answer: ", False), Piece("yes", True)])
    assert [BYTE.decode(ids) for ids, _ in parts] == ["Answer:", " yes"]
    untouched = Template(BYTE, CHATML).ids([Piece("yes ", True), Piece("or", False)])
    assert [BYTE.decode(ids) for ids, _ in untouched] == ["yes ", "or"]


def test_neighbours_that_count_alike_are_encoded_together() -> None:
    parts = Template(BYTE, CHATML).ids([Piece("pic", False), Piece("ture", False), Piece("s", True)])
    assert parts[0][0] == BYTE("picture")["input_ids"]
    assert len(parts) == 2


@pytest.mark.parametrize("bos", [False, True])
def test_beginning_of_text(bos: bool) -> None:
    template = Template(BYTE, dc.replace(CHATML, bos=bos))
    assert (flat(template.ids(template.pieces(QUESTION, ANSWER)))[0] == BYTE.bos_token_id) == bos
    first = template.ids([Piece("yes", True)])  # an answer at the very start: the BOS itself never counts
    assert first[-1] == (BYTE("yes")["input_ids"], True)
    assert first[:-1] == ([([BYTE.bos_token_id], False)] if bos else [])


def test_beginning_as_the_tokenizer_has_it() -> None:
    generation = TEMPLATES.get("default-generation")
    assert Template(BYTE, generation).card.bos is False
    eager = families.prefix_space_tokenizer("first").__class__(
        tokenizer_object=with_bos(FIRST), bos_token="<s>", eos_token="</s>"
    )
    template = Template(eager, generation)
    assert template.card.bos is True
    assert template.card.stop == "</s>"
    ids = flat(template.ids(template.pieces(QUESTION, ANSWER)))
    assert ids == eager("Is it red?Yes, it is.</s>")["input_ids"]
    assert ids.count(eager.bos_token_id) == 1


def with_bos(tokenizer):
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.convert_tokens_to_ids("<s>"))]
    )
    return backend


def test_a_tokenizer_that_merges_newlines_and_adds_spaces() -> None:
    """`\\n\\n` may be one token: an answer that starts with a newline must keep it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "▁", "\n", "\n\n", "a", "b", "▁a", "▁b", "▁\n", "▁\n\n"]
    merges = [("\n", "\n"), ("▁", "a"), ("▁", "b"), ("▁", "\n"), ("▁\n", "\n")]
    backend = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    card = TemplateCard(name="bare", user="{query}", stop="")
    parts = Template(tokenizer, card).ids([Piece("a", False), Piece("\nb", True)])
    assert "".join(tokenizer.convert_ids_to_tokens(parts[1][0])) == "\nb"
