"""What is known about a model family: names, chat template, which layers LoRA means, how pictures become tokens."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Mapping
from typing import Any, Literal

Quant = Literal["", "awq", "gptq", "bnb", "aqlm", "fp8"]


@dc.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One published checkpoint: ids on the hubs, and a template where it differs from the family's."""

    hf: str
    ms: str = ""
    template: str = ""
    loader: str = ""  # dotted path where this checkpoint is stored in another layout than its family's
    quant: Quant = ""  # stored quantised, with this package's format

    @classmethod
    def same(cls, id: str, **more: Any) -> Checkpoint:  # noqa: A002 - what the hubs call it
        """A checkpoint that has one id on both hubs."""
        return cls(hf=id, ms=id, **more)


@dc.dataclass(frozen=True, kw_only=True)
class TemplateCard:
    """A chat format as text. `{query}`, `{system}` and `{answer}` are replaced; `bos` asks for the tokenizer's own.

    One round is `user.format(query)` + `answer` + `stop`; rounds are joined by `between`. `system` is the block put
    before the first user turn, or, when `system_in_user` is set, inside it (`{system}` then stands in that string,
    which replaces `user` for the first turn, or for the last one with `system_in_last`). `stop` is part of the
    counted completion; `stop_words` end generation besides it. `{eos}` in `stop`, `{sep}` in `user` (the separator
    token) and `bos="auto"` stand for what the tokenizer says; `render.bind` puts it in.
    """

    name: str
    aliases: tuple[str, ...] = ()  # ms-swift v3/v4 names
    user: str
    stop: str
    answer: str = "{answer}"  # how an answer is written; text beside {answer} is counted like it
    bos: bool | Literal["auto"] = False  # auto: where the tokenizer by itself puts one before a text
    bos_stays: bool = True  # in front of a prompt whose beginning is cut to fit --max_length
    moves_space: bool = True  # a space that ends a prompt is encoded with the answer, where tokenizers expect it
    verbatim: bool = False  # a transcript (Human: ... Assistant: ...) stays the text it is, as one query
    system: str = ""
    system_always: bool = False  # the block is written without a system text too
    system_in_user: str = ""
    system_in_last: bool = False
    default_system: str = ""
    between: str = ""
    tool: str = ""  # how a tool result is shown as a user turn, `{query}` is its content; empty: refused
    thought: str = ""  # what opens the last answer where it brings no thinking of its own
    rounds: int = 0  # most rounds; 0: any number
    strip: tuple[str, ...] = ()  # roles whose text loses white space at its ends
    stop_words: tuple[str, ...] = ()


@dc.dataclass(frozen=True, kw_only=True)
class LoraTargets:
    """Module names inside the family, as regular expressions over full module names (fullmatch).

    `attention` is what DEFAULT means (q, k, v of the language model), `linear` what ALL means (every linear layer of
    the language model except the head). `aligner` and `tower` are prefixes of the vision parts, empty for text models.
    """

    attention: str = r".*\.self_attn\.(q_proj|k_proj|v_proj)"
    linear: str = r".*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    language: tuple[str, ...] = ("model",)
    aligner: tuple[str, ...] = ()
    tower: tuple[str, ...] = ()


@dc.dataclass(frozen=True, kw_only=True)
class VisionCard:
    """How a family sees pictures.

    `adapter` is the dotted path of a `swiftlike.data.vision` class; `placeholder` the token repeated once per image
    feature; `image_text` what an `<image>` tag becomes before that expansion; `after` what follows a picture when the
    text does not already start with it. `options` maps ms-swift's environment names to our flag they set. `unexpanded`
    is what stands for a picture in a prompt for vLLM, which expands it itself, where that is not `image_text`.
    """

    adapter: str
    placeholder: str
    image_text: str
    after: str = ""
    unexpanded: str = ""
    mrope: bool = False
    max_tokens: str = ""  # one line for people: how many tokens one picture takes
    options: Mapping[str, str] = dc.field(default_factory=dict)


@dc.dataclass(frozen=True, kw_only=True)
class ModelCard:
    """A model family.

    `name` is our word for the family and equals config.json's `model_type` wherever a family has one; `aliases` are
    architecture names of ms-swift v3/v4. `checkpoints` maps ms-swift v2 checkpoint names to their ids (checkpoints
    that came later have names in the same style). `template` is for folders that are no known checkpoint;
    `template_of` finds a better one from their config.json ("" when it cannot tell).
    """

    name: str
    aliases: tuple[str, ...] = ()
    checkpoints: Mapping[str, Checkpoint] = dc.field(default_factory=dict, repr=False)
    hf_types: tuple[str, ...] = ()  # config.json model_type values
    architectures: tuple[str, ...] = ()  # config.json architectures values
    template: str = "chat_template"  # a TemplateCard's name, or the checkpoint's own Jinja template
    alias_templates: Mapping[str, str] = dc.field(default_factory=dict)  # template that an alias stands for
    template_of: Callable[[Mapping[str, Any]], str] | None = None
    lora: LoraTargets = dc.field(default_factory=LoraTargets)
    vision: VisionCard | None = None
    layouts: tuple[str, ...] = ("shared", "split")
    attention: tuple[str, ...] = ("sdpa", "eager", "flash_attention_2")  # best first; the first allowed one is taken
    loader: str = "swiftlike.models.load:native"
    loaders: Mapping[str, str] = dc.field(default_factory=dict)  # by architecture, for another layout of the files
    build: str = ""  # dotted path of a function (folder) that writes a built-in tiny model
    needs: tuple[str, ...] = ()  # extra packages
