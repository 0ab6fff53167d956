"""Our cards against the chat templates of real checkpoints that TRL ships."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from swiftlike.datasets_registry.row import Message
from swiftlike.model_registry import TEMPLATES

from .conversations import CASES, text

jinja2 = pytest.importorskip("jinja2")

CARDS = {
    "gemma": "gemma",
    "gemma3": "gemma",
    "llama3": "llama3",
    "llama3_1": "llama3_2",
    "llama3_2": "llama3_2",
    "llava_next": "llava-mistral",
    "phi3": "phi3",
    "phi3_5": "phi3",
    "qwen2_5": "qwen2_5",
    "qwen2_5_vl": "qwen2_5-vl",
    "qwen3": "qwen3",
    "qwen3_instruct_2507": "qwen3-instruct",
    "qwen3_vl": "qwen3-vl",
}
BOS, EOS = "<bos>", "<eos>"


def folder() -> Path:
    found = importlib.util.find_spec("trl")  # its files are enough: importing it takes seconds
    if found is None or found.origin is None:
        pytest.skip("trl is not installed")
    return Path(found.origin).parent / "chat_templates"


def render(source: str, messages: tuple[Message, ...], parts: bool) -> str:
    """As transformers does: the same Jinja options, and contents as lists of parts where a template wants them."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    jinja = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    jinja.globals["raise_exception"] = refuse
    chat = [
        {"role": one.role, "content": [{"type": "text", "text": one.content}] if parts else one.content}
        for one in messages
    ]
    opened = messages[-1].role != "assistant"
    return jinja.from_string(source).render(messages=chat, add_generation_prompt=opened, bos_token=BOS, eos_token=EOS)


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("case", CASES)
def test_same_text(name: str, case: str) -> None:
    messages, card = CASES[case], TEMPLATES.get(CARDS[name])
    source = (folder() / f"{name}.jinja").read_text(encoding="utf-8")
    if (name, messages[0].role) == ("gemma", "system"):  # refused there; here as Gemma 3 has it
        with pytest.raises(jinja2.TemplateError, match="System role not supported"):
            render(source, messages, parts=False)
        return
    theirs = render(source, messages, parts=name == "llava_next")
    begins = theirs.startswith(BOS)
    theirs = theirs.removeprefix(BOS).removesuffix(EOS)
    # after the last stop text, templates add what would stand before another round
    if messages[-1].role == "assistant":
        theirs = theirs.removesuffix(card.between)
    assert text(card, messages, system=None) == theirs
    assert begins == (card.bos and name != "llava_next")  # there the processor's tokenizer adds it
