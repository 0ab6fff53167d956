"""From what the user typed (--model, --model_type) to a family, a checkpoint and a template. Never asks the network."""

from __future__ import annotations

import dataclasses as dc
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from swiftlike.core.errors import UserError, suggestion
from swiftlike.model_registry import MODELS
from swiftlike.model_registry.builtin import BUILTIN, BuiltinModel
from swiftlike.model_registry.card import Checkpoint, ModelCard
from swiftlike.model_registry.generic import GENERIC

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_NOT_TEXT = ("vision_config", "audio_config", "img_processor", "visual", "mm_vision_tower")  # keys of config.json
_LIST = "`swiftlike list models` shows every name"


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What is known of a model before anything is loaded.

    `card` is None for a hub id that nobody registered: `settle` completes the match once its config.json is at hand.
    `template` is a TemplateCard's name, or "chat_template" for the checkpoint's own; like `loader` it is "" while
    `card` is None. `builtin` is set when the model has to be built first.
    """

    card: ModelCard | None
    name: str  # v2 checkpoint name, built-in name, family, or the id as typed
    id_or_path: str
    template: str = ""
    loader: str = ""
    checkpoint: Checkpoint | None = None
    builtin: BuiltinModel | None = None
    local: bool = False

    def source(self, use_hf: bool = True) -> str:
        """Path or hub id to load from; ids of registered checkpoints are translated to the hub asked for."""
        if self.local or self.checkpoint is None:
            return self.id_or_path
        known = {self.checkpoint.hf.casefold(), self.checkpoint.ms.casefold()}
        if self.id_or_path.casefold() not in known:
            return self.id_or_path
        found = self.checkpoint.hf if use_hf else self.checkpoint.ms
        if not found:
            hub = "Hugging Face" if use_hf else "ModelScope"
            raise UserError(f"{self.name} is not on {hub}", "--use_hf chooses the hub")
        return found


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class _Claim:
    """What one of the two flags says about the model."""

    said: str  # for messages
    card: ModelCard | None = None
    name: str = ""
    id_or_path: str = ""
    template: str = ""
    loader: str = ""
    checkpoint: Checkpoint | None = None
    builtin: BuiltinModel | None = None
    local: bool = False


def find(model: str, model_type: str | None = None) -> Match:
    """The match for `--model` and `--model_type`; either may be empty. UserError when they are unknown or disagree."""
    typed = _of_type(model_type) if model_type else None
    named = _of_model(model) if model else None
    if typed and named:
        return _match(_joined(typed, named))
    if named:
        return _match(named)
    if typed is None:
        raise UserError("no model given", "--model takes a folder, a hub id or a name; " + _LIST)
    if not typed.id_or_path:
        known = ", ".join(list(typed.card.checkpoints)[:4]) if typed.card else ""
        hint = f"or one of its checkpoints as --model_type: {known}, ..." if known else ""
        raise UserError(f"--model_type {model_type} names a family: give --model too", hint)
    return _match(typed)


def settle(match: Match, config: Mapping[str, Any]) -> Match:
    """The match with what the checkpoint's config.json says. UserError when that is another family."""
    found = _of_config(config, match.id_or_path)
    text = found.card is not None and found.card.vision is None
    if match.card not in (None, found.card) and not (match.card is GENERIC and text):
        raise _disagree(f"{match.name} is a {match.card.name} model", found)
    if match.card is None:
        return dc.replace(_match(found), id_or_path=match.id_or_path, local=match.local)
    by_default = match.checkpoint is None and match.template == match.card.template
    return dc.replace(match, loader=found.loader, template=found.template if by_default else match.template)


def card_for_config(config: Mapping[str, Any]) -> ModelCard:
    """The family of a config.json: by `architectures`, then by `model_type`, else GENERIC for a language model.

    UserError for what swiftlike cannot train: families with pictures or sound that have no card, and LLaVA's own
    layout of files.
    """
    architectures = config.get("architectures") or []
    for card in MODELS:
        if any(one in card.architectures for one in architectures):
            return card
    if any(re.fullmatch(r"Llava\w*ForCausalLM", one) for one in architectures):
        raise UserError(
            f"{architectures[0]} is the layout of LLaVA's own code",
            "use the same checkpoint in transformers' layout: the ids under llava-hf/, whose names end in -hf",
        )
    for card in MODELS:
        if config.get("model_type") in card.hf_types:
            return card
    kind = (architectures or [config.get("model_type") or "unknown"])[0]
    if any(key in config for key in _NOT_TEXT):
        families = ", ".join(card.name for card in MODELS if card.vision)
        raise UserError(f"{kind} is not supported", f"families with pictures are {families}")
    if not re.search(r"(ForCausalLM|LMHeadModel|ForSequenceClassification)$", kind):
        raise UserError(f"{kind} is not a causal language model", _LIST)
    return GENERIC


def names() -> Iterator[str]:
    """Every word that `find` knows: checkpoint names, hub ids, families, their ms-swift names, built-in models."""
    yield from (one.name for one in BUILTIN)
    for card in MODELS:
        yield from (card.name, *card.aliases, *card.checkpoints)
        for one in card.checkpoints.values():
            yield from {one.hf, one.ms} - {""}


# -- what each flag says ---------------------------------------------------------------------------------------------


def _of_type(text: str) -> _Claim:
    said = f"--model_type {text}"
    claim = _of_name(text, said)
    if claim is not None:
        return claim
    if text in MODELS:
        card = MODELS.get(text)
        return _Claim(said=said, card=card, name=card.name, template=card.alias_templates.get(text, ""))
    claim = _of_id(text, said)
    if claim is not None:
        return claim
    raise UserError(f"unknown model type {text!r}{suggestion(text, names())}", _LIST)


def _of_model(text: str) -> _Claim:
    said = f"--model {text}"
    claim = _of_name(text, said)
    if claim is not None and not Path(text).is_dir():
        return claim
    path = Path(text).expanduser()
    if path.exists():
        return _of_folder(path)
    if text.startswith((".", "/", "~")) or text.count("/") > 1 or "\\" in text:
        raise UserError(f"there is no folder {text}")
    claim = _of_id(text, said)
    if claim is not None:
        return claim
    if _HUB_ID.fullmatch(text):
        return _Claim(said=said, name=text, id_or_path=text)
    if text in MODELS:
        raise UserError(f"--model {text} is a family, not a checkpoint", "it is meant for --model_type; " + _LIST)
    raise UserError(f"unknown model {text!r}{suggestion(text, names())}", "hub ids are owner/name; " + _LIST)


def _of_name(text: str, said: str) -> _Claim | None:
    for one in BUILTIN:
        if one.name == text:
            card = MODELS.get(one.family)
            return _Claim(said=said, card=card, name=text, id_or_path=text, template=one.template, builtin=one)
    for card in MODELS:
        if text in card.checkpoints:
            one_of = card.checkpoints[text]
            return _known(said, card, text, one_of, one_of.hf or one_of.ms)
    return None


def _of_id(text: str, said: str) -> _Claim | None:
    wanted = text.casefold()
    for card in MODELS:
        for name, one in card.checkpoints.items():
            if wanted in (one.hf.casefold(), one.ms.casefold()):
                return _known(said, card, name, one, text)
    return None


def _known(said: str, card: ModelCard, name: str, one: Checkpoint, source: str) -> _Claim:
    return _Claim(
        said=said, card=card, name=name, id_or_path=source, checkpoint=one, template=one.template, loader=one.loader
    )


def _of_folder(path: Path) -> _Claim:
    if not path.is_dir():
        raise UserError(f"{path} is a file", "--model takes the folder that has config.json")
    if not (path / "config.json").is_file():
        if (path / "adapter_config.json").is_file():
            base = _json(path / "adapter_config.json").get("base_model_name_or_path") or "its base model"
            raise UserError(f"{path} is an adapter of {base}", f"--model {base} --adapters {path}")
        raise UserError(f"{path} has no config.json: it is not a model folder")
    return dc.replace(_of_config(_json(path / "config.json"), str(path)), local=True)


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{file} is not a JSON object")
    return found


def _of_config(config: Mapping[str, Any], source: str) -> _Claim:
    """By config.json, and by the last part of the path or id where that is a published checkpoint's of this family."""
    card = card_for_config(config)
    architectures = config.get("architectures") or []
    loader = next((card.loaders[one] for one in architectures if one in card.loaders), card.loader)
    said = f"{source}: config.json says {', '.join(architectures) or config.get('model_type')}"
    last = source.rstrip("/").rpartition("/")[2].casefold()
    for name, one in card.checkpoints.items():
        if last in (one.hf.rpartition("/")[2].casefold(), one.ms.rpartition("/")[2].casefold()):
            return dc.replace(_known(said, card, name, one, source), loader=loader)
    template = (card.template_of(config) if card.template_of else "") or card.template
    return _Claim(said=said, card=card, name=card.name, id_or_path=source, template=template, loader=loader)


# -- both together ---------------------------------------------------------------------------------------------------


def _joined(typed: _Claim, named: _Claim) -> _Claim:
    """`--model` says where the weights are, `--model_type` what they are; where both know, they must agree."""
    if typed.card is GENERIC and (named.card is None or named.card.vision is None):
        return dc.replace(named, card=GENERIC, name=GENERIC.name, template=GENERIC.template, checkpoint=None)
    if named.card is not None and named.card is not typed.card:
        raise _disagree(f"{typed.said} is a {typed.card.name if typed.card else ''} model", named)
    first, second = typed.checkpoint, named.checkpoint
    if first and second and first is not second and not named.local:
        raise UserError(f"{typed.said} and {named.said} ({named.name}) are two checkpoints", "leave out one of the two")
    exact = bool(first or typed.builtin)  # otherwise --model_type is only a family
    template = typed.template if exact or not second else named.template
    return dc.replace(
        named,
        card=typed.card,
        name=typed.name if exact or named.card is None else named.name,
        template=template or named.template,
        checkpoint=first or second,
        loader=named.loader or typed.loader,
    )


def _disagree(first: str, second: _Claim) -> UserError:
    other = second.card.name if second.card else "unknown"
    return UserError(f"{first}, but {second.said}, a {other} model", "leave out --model_type, or name the right one")


def _match(claim: _Claim) -> Match:
    card = claim.card
    template = claim.template or (card.template if card else "")
    loader = claim.loader or (card.loader if card else "")
    return Match(
        card=card,
        name=claim.name,
        id_or_path=claim.id_or_path,
        template=template,
        loader=loader,
        checkpoint=claim.checkpoint,
        builtin=claim.builtin,
        local=claim.local,
    )
