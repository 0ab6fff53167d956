"""vLLM's own server for one of our models: its command line, and a chat template that renders what training saw."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.core.log import get_logger
from swiftlike.data.template import Template
from swiftlike.datasets_registry.row import Message, Turns
from swiftlike.engines.base import Request, Sampling
from swiftlike.engines.prompts import Prompts
from swiftlike.engines.vllm_args import command_line, engine_arguments
from swiftlike.engines.vllm_folder import loadable, with_settings
from swiftlike.model_registry.jinja import around, template
from swiftlike.models.load import choose_dtype

log = get_logger(__name__)
TEMPLATE = "swiftlike_chat_template.jinja"
_scratch: list[tempfile.TemporaryDirectory[str]] = []  # for as long as this process, which the server is a child of
SAID = ("Which way is north?", "Towards the cold, mate.", "  And 12,5 km from here?")


def serve_arguments(run: Any, opened: Any, sampling: Sampling | None = None) -> list[str]:
    """The words behind `vllm serve` that say what is served, and how it computes.

    Answers end where training ended them, and `sampling` is what a request leaves open. UserError where vLLM's server
    would give the model other tokens than training did.
    """
    prompts = Prompts(template=opened.checkpoint.template)
    if prompts.stops:
        raise UserError(
            f"answers of this model end with the text {prompts.stops[0]!r}, which is no token of it; vLLM's server "
            "cannot end them there",
            hint="--infer_backend pt",
        )
    _scratch.append(tempfile.TemporaryDirectory(prefix="swiftlike-vllm-"))
    scratch = Path(_scratch[-1].name)
    merge = run.use.merge_lora
    folder = loadable(opened, scratch, merge)
    folder = with_settings(folder, scratch, prompts.ends, sampling or Sampling())
    adapters = {} if merge else opened.adapters
    dtype = str(choose_dtype(opened.run.model.torch_dtype)).removeprefix("torch.")
    found = engine_arguments(run, folder, adapters, dtype)
    for name in {"disable_log_stats", "max_logprobs"} - set(run.engine.vllm_engine_kwargs):
        del found[name]  # the server has its own
    file = scratch / TEMPLATE
    file.write_text(chat_template(opened.checkpoint.template), encoding="utf-8")
    found |= {"chat_template": str(file), "chat_template_content_format": "openai"}
    words = command_line(found)
    names = [f"{name}={path.resolve()}" for name, path in adapters.items()]
    return [*words, "--lora-modules", *names] if names else words


def chat_template(used: Template) -> str:
    """Jinja text whose tokens are those of training. UserError where no text gives them."""
    if used.card is None:
        return around(used.tokenizer.get_chat_template(), system=used.system or "", vision=used.vision)
    bos = used.tokenizer.bos_token or ""
    for lead in ("", " "):  # a space that some tokenizers put at a text's beginning, but not behind a special token
        made = template(used.card, bos=bos + lead, system=used.system, vision=used.vision)
        if _same_tokens(used, made, rounds=1):
            if not _same_tokens(used, made, rounds=2):
                log.warning("vLLM's server splits conversations of several turns into other tokens than training did")
            return made
    raise UserError(
        f"vLLM's server would split the text of template {used.card.name!r} into other tokens than training did",
        hint="--infer_backend pt",
    )


def _same_tokens(used: Template, made: str, rounds: int) -> bool:
    """Whether a rendered conversation, encoded as a whole, is what training encodes piece by piece."""
    if used.card is not None and used.card.rounds and rounds > used.card.rounds:
        return True
    roles = itertools.cycle(("user", "assistant"))
    messages = tuple(Message(role, text) for role, text in zip(roles, SAID[: 2 * rounds - 1], strict=False))
    wanted = Prompts(template=used).ids(Request(prompt=Turns(messages))).ids
    chat = [{"role": one.role, "content": one.content} for one in messages]
    text = used.tokenizer.apply_chat_template(chat, chat_template=made, add_generation_prompt=True, tokenize=False)
    return tuple(used.tokenizer(text, add_special_tokens=False)["input_ids"]) == wanted
