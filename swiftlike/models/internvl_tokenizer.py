"""A sentencepiece `tokenizer.model` as a fast tokenizer, without the sentencepiece package and without remote code.

InternLM2's published tokenizer is python code around sentencepiece. The same pieces and scores are read here from the
file (protocol buffer wire format, `sentencepiece_model.proto` of google/sentencepiece) and become a byte-pair model of
the `tokenizers` package; text between added tokens is encoded on its own, as the slow tokenizer does.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import AddedToken, PreTrainedTokenizerFast

from swiftlike.core.errors import UserError

_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6  # ModelProto.SentencePiece.Type
_BPE = 2  # TrainerSpec.ModelType
_CLASSES = ("InternLM2Tokenizer", "LlamaTokenizer")


class Piece(NamedTuple):
    """One entry of the vocabulary; its id is its position."""

    text: str
    score: float
    kind: int


class PieceModel(NamedTuple):
    """What a sentencepiece file says about encoding."""

    pieces: list[Piece]
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool


def read_model(path: Path) -> PieceModel:
    """Parse a sentencepiece file; UserError when it is missing or not a byte-pair model."""
    if not path.is_file():
        raise UserError(f"{path} is missing", "copy the checkpoint's tokenizer files")
    pieces, trainer, normalizer = [], {}, {}
    for field, value in _fields(path.read_bytes()):
        if field == 1:
            entry = dict(_fields(value))
            (score,) = struct.unpack("<f", entry.get(2, b"\0\0\0\0"))
            pieces.append(Piece(entry.get(1, b"").decode(), score, entry.get(3, _NORMAL)))
        elif field == 2:
            trainer |= dict(_fields(value))
        elif field == 3:
            normalizer |= dict(_fields(value))
    if trainer.get(3, 1) != _BPE or trainer.get(24, 0):
        raise UserError(f"{path} is not a sentencepiece byte-pair model with spaces in front", "use a fast tokenizer")
    flags = (bool(normalizer.get(number, 1)) for number in (3, 4, 5))
    return PieceModel(pieces, normalizer.get(2, b""), *flags)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, value) of one protocol buffer message: ints for varints, bytes for the rest."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(kind) or varint()
        yield key >> 3, data[at : at + size]
        at += size


def added_tokens(folder: Path) -> dict[int, AddedToken]:
    """Added tokens of a tokenizer folder by id, whichever of its files names them."""
    settings = _json(folder / "tokenizer_config.json")
    special = set(settings.get("additional_special_tokens") or []) | set(_special_names(folder))
    found = {}
    for number, token in (settings.get("added_tokens_decoder") or {}).items():
        found[int(number)] = _added(token["content"], token, special)
    for text, number in _json(folder / "added_tokens.json").items():
        found.setdefault(number, _added(text, {}, special))
    for token in _json(folder / "tokenizer.json").get("added_tokens", []):
        found.setdefault(token["id"], _added(token["content"], token, special))
    return dict(sorted(found.items()))


def _added(text: str, settings: dict[str, Any], special: set[str]) -> AddedToken:
    flags = {name: settings.get(name, False) for name in ("lstrip", "rstrip", "single_word")}
    return AddedToken(text, normalized=False, special=settings.get("special", text in special), **flags)


def _special_names(folder: Path) -> list[str]:
    values = _json(folder / "special_tokens_map.json").values()
    flat = chain.from_iterable(value if isinstance(value, list) else [value] for value in values)
    return [token["content"] if isinstance(token, dict) else token for token in flat]


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def handles(folder: Path) -> bool:
    """Whether the folder's tokenizer is a sentencepiece file that needs this module."""
    name = _json(folder / "tokenizer_config.json").get("tokenizer_class", "").removesuffix("Fast")
    has_fast = (folder / "tokenizer.json").is_file()
    return name == _CLASSES[0] or (name in _CLASSES and not has_fast)


def sentencepiece_tokenizer(folder: Path, named: dict[str, str]) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a folder with `tokenizer.model`; `named` are attributes for special tokens.

    UserError when two tokens claim one id or the file holds symbols whose handling cannot be expressed.
    """
    settings = _json(folder / "tokenizer_config.json")
    model, extra = read_model(folder / "tokenizer.model"), added_tokens(folder)
    core = _core(model, extra, settings)
    roles = {
        role: _text(settings.get(f"{role}_token"), default)
        for role, default in {"unk": "<unk>", "bos": "<s>", "eos": "</s>", "pad": "</s>"}.items()
    }
    core.post_processor = _post_processor(core, roles, settings)
    standard = set(roles.values()) | set(named.values())
    others = [token for token in extra.values() if token.special and token.content not in standard]
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        **{f"{role}_token": text for role, text in roles.items()},
        **named_tokens(named, others),
        model_max_length=settings.get("model_max_length") or 8192,
        chat_template=settings.get("chat_template"),
        clean_up_tokenization_spaces=False,
        padding_side=settings.get("padding_side", "right"),
    )


def named_tokens(named: dict[str, str], others: list[AddedToken]) -> dict[str, Any]:
    """Keywords that make `named` attributes of the tokenizer and keep `others` special."""
    return {"model_specific_special_tokens": dict(named), "extra_special_tokens": others}


def _text(token: str | dict[str, Any] | None, default: str) -> str:
    return token["content"] if isinstance(token, dict) else token or default


def _core(model: PieceModel, extra: dict[int, AddedToken], settings: dict[str, Any]) -> Tokenizer:
    """Byte-pair model, normalizer, added tokens and decoder."""
    names = [piece.text for piece in model.pieces]
    names += [""] * (max([-1, *extra]) + 1 - len(names))
    for number, token in extra.items():
        names[number] = token.content
    vocabulary = {name: number for number, name in enumerate(names) if name}
    clashes = [name for number, name in enumerate(names) if name and vocabulary[name] != number]
    if clashes:
        raise UserError("two ids of the tokenizer have one name", "", clashes)
    unknown = next((piece.text for piece in model.pieces if piece.kind == _UNKNOWN), None)
    has_bytes = any(piece.kind == _BYTE for piece in model.pieces)
    bpe = BPE(vocabulary, _merges(model, extra), unk_token=unknown, fuse_unk=True, byte_fallback=has_bytes)
    core = Tokenizer(bpe)
    _set_spaces(core, model, settings)
    symbols = [
        AddedToken(piece.text, normalized=True, special=False)
        for number, piece in enumerate(model.pieces)
        if piece.kind == _USER and number not in extra
    ]
    if symbols and model.add_dummy_prefix:
        # A piece in the middle of a text would wrongly get the prefix of a text's beginning.
        raise UserError(
            "the sentencepiece file has user defined symbols and a dummy prefix", "", [s.content for s in symbols[:5]]
        )
    core.add_tokens(symbols)
    for token in extra.values():
        (core.add_special_tokens if token.special else core.add_tokens)([token])
    return core


def _merges(model: PieceModel, extra: dict[int, AddedToken]) -> list[tuple[str, str]]:
    """Every way to join two pieces into a third, best score first: what sentencepiece searches for at run time."""
    joined = {
        piece.text: piece.score
        for number, piece in enumerate(model.pieces)
        if piece.kind == _NORMAL and number not in extra
    }
    best_first = sorted(joined, key=lambda text: -joined[text])
    cuts = ((text[:cut], text[cut:]) for text in best_first for cut in range(1, len(text)))
    return [(left, right) for left, right in cuts if left in joined and right in joined]


def _set_spaces(core: Tokenizer, model: PieceModel, settings: dict[str, Any]) -> None:
    """Normalizer and decoder; a text's beginning and each piece after an added token get the dummy prefix alike.

    With the Llama tokenizer's `legacy: false` only a text's beginning gets it, and always (here: unless it is a space).
    """
    steps: list[Any] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    only_first = settings.get("legacy") is False
    if model.add_dummy_prefix and not only_first:
        steps.append(normalizers.Prepend("▁" if model.escape_whitespaces else " "))
    if model.escape_whitespaces:
        steps.append(normalizers.Replace(" ", "▁"))
    core.normalizer = normalizers.Sequence(steps)
    if only_first:
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    parts: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if model.add_dummy_prefix or model.remove_extra_whitespaces or only_first:
        parts.append(decoders.Strip(content=" ", left=1))
    core.decoder = decoders.Sequence(parts)


def _post_processor(core: Tokenizer, roles: dict[str, str], settings: dict[str, Any]) -> processors.TemplateProcessing:
    """`<s>` in front unless the folder says otherwise, `</s>` behind when it asks for it."""
    bos = [roles["bos"]] if settings.get("add_bos_token", True) else []
    eos = [roles["eos"]] if settings.get("add_eos_token", False) else []
    return processors.TemplateProcessing(
        single=[*bos, "$A", *eos],
        pair=[*bos, "$A", *eos, *(f"{token}:1" for token in bos), "$B:1", *(f"{token}:1" for token in eos)],
        special_tokens=[(token, core.token_to_id(token)) for token in {*bos, *eos}],
    )
