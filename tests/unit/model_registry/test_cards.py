"""Every card is well formed, and every name it uses exists."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections import Counter

import pytest

from swiftlike.core.dotted import resolve
from swiftlike.model_registry import MODELS, TEMPLATES
from swiftlike.model_registry.builtin import BUILTIN
from swiftlike.model_registry.card import ModelCard, TemplateCard
from swiftlike.model_registry.match import names

CARDS, FORMATS = list(MODELS), list(TEMPLATES)
CHECKPOINTS = [(card, name, one) for card in CARDS for name, one in card.checkpoints.items()]


def dotted() -> set[str]:
    paths = {card.loader for card in CARDS} | {path for card in CARDS for path in card.loaders.values()}
    paths |= {one.loader for _, _, one in CHECKPOINTS if one.loader}
    paths |= {card.vision.adapter for card in CARDS if card.vision}
    return paths | {one.build for one in BUILTIN}


def test_registries_are_cold() -> None:
    heavy = "torch transformers datasets PIL numpy pydantic rich yaml"
    script = (
        "import sys; from swiftlike.model_registry import MODELS, TEMPLATES, match; MODELS.names(), TEMPLATES.names()\n"
        f"print([name for name in {heavy.split()} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_means_one_thing() -> None:
    words = [one.name for one in BUILTIN]
    for card in CARDS:
        words += [card.name, *card.aliases, *card.checkpoints]
    assert [word for word, times in Counter(words).items() if times > 1] == []


def test_an_id_belongs_to_one_checkpoint() -> None:
    for hub in ("hf", "ms"):
        ids = Counter(getattr(one, hub).casefold() for _, _, one in CHECKPOINTS if getattr(one, hub))
        assert [found for found, times in ids.items() if times > 1] == []


def test_every_word_is_listed() -> None:
    listed = set(names())
    assert {"tiny-llama", "qwen2-7b-instruct", "Qwen/Qwen2-7B-Instruct", "llama", "mistral_nemo"} <= listed
    assert "" not in listed


@pytest.mark.parametrize(("card", "name", "one"), CHECKPOINTS, ids=[name for _, name, _ in CHECKPOINTS])
def test_checkpoint(card: ModelCard, name: str, one: object) -> None:
    assert re.fullmatch(r"[a-zA-Z0-9._-]+", name)
    for found in (one.hf, one.ms):
        assert re.fullmatch(r"([\w.-]+/[\w.-]+)?", found)
    assert one.hf or one.ms
    assert one.template == "chat_template" or one.template in TEMPLATES


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_family(card: ModelCard) -> None:
    assert card.template == "chat_template" or card.template in TEMPLATES
    assert set(card.alias_templates) <= set(card.aliases)
    assert all(template in TEMPLATES for template in card.alias_templates.values())
    assert set(card.loaders) <= set(card.architectures)
    assert set(card.layouts) <= {"shared", "split"}
    assert set(card.attention) <= {"sdpa", "eager", "flash_attention_2", "flex_attention"}
    if card.vision:
        assert card.vision.image_text.count(card.vision.placeholder) == 1
        assert set(card.vision.options.values()) <= {"max_pixels", "min_pixels", "max_tiles", "max_image_tokens"}


@pytest.mark.parametrize("card", FORMATS, ids=lambda card: card.name)
def test_format_uses_its_places(card: TemplateCard) -> None:
    places = {"user": "query", "answer": "answer", "system": "system", "tool": "query"}
    for field, place in places.items():
        if getattr(card, field):
            assert re.findall(r"\{(query|system|answer|eos)\}", getattr(card, field)) == [place]
    if card.system_in_user:
        assert sorted(re.findall(r"\{(query|system)\}", card.system_in_user)) == ["query", "system"]
        assert not card.system
    assert card.stop
    assert set(card.strip) <= {"system", "user", "assistant"}


def test_families_do_not_share_configurations() -> None:
    for field in ("hf_types", "architectures"):
        found = Counter(value for card in CARDS for value in getattr(card, field))
        assert max(found.values()) == 1


@pytest.mark.parametrize("path", sorted(dotted()))
def test_dotted_path(path: str) -> None:
    assert re.fullmatch(r"swiftlike(\.\w+)+:\w+", path)
    if importlib.util.find_spec(path.partition(":")[0]) is None:
        pytest.skip("not written yet")
    assert callable(resolve(path))


def test_builtin_models_name_families_and_formats() -> None:
    for one in BUILTIN:
        assert one.family in MODELS.names()
        assert one.template in TEMPLATES
