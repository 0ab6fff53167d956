"""Which format a record has, by its columns.

Precedence when several formats fit. The answers first: a kind that was asked for by name; else pairs (a rejected
column), ranked lists (completions with scores), labelled answers (a label), single answers. Then the prompt: whole
conversations inside chosen and rejected, `messages`, `conversations`, `conversation`, `instruction`, then the texts of
`TEXTS` in order. A column that no format uses is named in the report, never silently mixed in.
"""

from __future__ import annotations

import dataclasses as dc
import difflib
import itertools
import json
from collections.abc import Iterable
from collections.abc import Mapping as Columns
from typing import Any

from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.turns import ROLES, is_transcript

KINDS = ("completion", "pair", "labelled", "ranked")
KIND_WORDS = {
    "completion": "answers",
    "pair": "pairs",
    "labelled": "labelled answers",
    "ranked": "ranked answers",
    "prompt": "prompts",
}
DIALOGUES = ("messages", "conversations", "conversation", "context")
TEXTS = ("query", "prompt", "question", "problem", "instruction", "input", "user", "user_input")
CHOSEN = (
    *("response", "chosen", "chosen_response", "preferred", "preferred_response", "chosen_answer", "preferred_answer"),
    *("completion", "answer", "output", "target", "targets", "solution", "chosen_messages", "content"),
)
REJECTED = (
    *("rejected_messages", "rejected_response", "rejected", "dispreferred", "dispreferred_response"),
    *("rejected_answer", "non_preferred", "rejected_completion", "rejected_output"),
)
PARTNERS = {
    "rejected_response": ("response", "chosen_response", "chosen"),
    "rejected": ("chosen", "preferred", "response"),
    "dispreferred": ("preferred", "chosen"),
    "dispreferred_response": ("preferred_response", "preferred"),
    "rejected_answer": ("chosen_answer", "preferred_answer", "answer"),
    "non_preferred": ("preferred",),
    "rejected_completion": ("chosen_completion", "completion"),
    "rejected_output": ("chosen_output", "output"),
    "rejected_messages": ("chosen_messages",),
}
COMPLETIONS = ("completions", "responses", "candidates", "answers")
SCORES = ("scores", "rewards", "ratings")
LABELS = ("label", "kto_tag")
SIDE = {  # columns that go with any format: its name -> ours
    "system": "system",
    "system_prompt": "system",
    "system_message": "system",
    "history": "history",
    "images": "images",
    "image": "images",
    "rejected_images": "rejected_images",
    "rejected_image": "rejected_images",
    "tools": "tools",
    "margin": "margin",
}
FORMATS = {  # for the message on an unknown layout: what to write, the kind it gives, and the columns that make it
    "ms-swift pairs": ("pair", ("query", "response", "rejected_response")),
    "ms-swift answers": ("completion", ("query", "response")),
    "message pairs": ("pair", ("messages", "rejected_response")),
    "message answers": ("completion", ("messages",)),
    "labelled answers (KTO)": ("labelled", ("prompt", "completion", "label")),
    "labelled messages (KTO)": ("labelled", ("messages", "label")),
    "prompt/chosen/rejected": ("pair", ("prompt", "chosen", "rejected")),
    "alpaca": ("completion", ("instruction", "input", "output")),
    "ShareGPT pairs": ("pair", ("conversations", "chosen", "rejected")),
    "ShareGPT": ("completion", ("conversations",)),
    "ranked answers (EXO)": ("ranked", ("prompt", "completions", "rewards")),
    "ranked answers (APO)": ("ranked", ("text", "scores")),
}
REJECTED_IMAGES = ("rejected_images", "rejected_image")
_SHOWN = 400
_KEYS, _NAME = 100, 60


@dc.dataclass(frozen=True, slots=True)
class Mapping:
    """How a record is read: the format's name, the kind of rows it holds, and its columns as (theirs, ours)."""

    name: str
    kind: str
    pairs: tuple[tuple[str, str], ...]
    unused: tuple[str, ...] = ()

    @property
    def columns(self) -> dict[str, str]:
        """File column -> our column."""
        return dict(self.pairs)

    def as_text(self) -> str:
        """`ShareGPT pairs: conversations -> prompt, chosen -> chosen (not used: id)`."""
        text = ": ".join(filter(None, (self.name, ", ".join(f"{theirs} -> {ours}" for theirs, ours in self.pairs))))
        return f"{text} (not used: {_cut(', '.join(self.unused))})" if self.unused else text


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def recognise(record: Columns[str, Any], kind: str = "auto") -> Mapping:
    """The format of a record. `kind` decides between formats that fit at once. BadRow when it has no prompt."""
    have = {key: value for key, value in record.items() if value is not None and value != []}
    found, answers = "prompt", {}
    for one in (kind, *FINDERS) if kind in ("ranked", "labelled") else FINDERS:
        columns = FINDERS[one](have, kind)
        if columns is not None:
            found, answers = one, columns
            break
    prompt, form = _prompt(have, answers)
    columns = {**prompt, **answers}
    columns |= _side(have, columns, found, form)
    unused = tuple(str(key) for key in have if key not in columns)
    return Mapping(f"{form} {KIND_WORDS[found]}", found, tuple(columns.items()), unused)


def unknown_layout(record: Columns[str, Any], kind: str = "auto") -> list[str]:
    """What to tell about a record of no usable format: the record, its keys, and the nearest formats of that kind."""
    shown = json.dumps(record, ensure_ascii=False, default=lambda value: f"<{type(value).__name__}>")
    shown = _cut(shown)
    lines = [f"first row: {shown}", f"keys seen: {_cut(', '.join(map(str, record))) or 'none'}"]
    for name, wanted in _nearest(record, kind):
        missing = ", ".join(column for column in wanted if column not in record)
        missing = f"missing here: {missing}" if missing else "the columns are here, but hold something else"
        lines.append(f"nearest: {name}: {', '.join(wanted)}; {missing}")
    return lines


def _nearest(record: Columns[str, Any], kind: str, count: int = 3) -> list[tuple[str, tuple[str, ...]]]:
    # likeness costs the product of all lengths: no more keys than a layout has, none longer than a name is
    keys = [str(key)[:_NAME].lower() for key in itertools.islice(record, _KEYS)]

    def likeness(wanted: tuple[str, ...]) -> float:
        best = [max((difflib.SequenceMatcher(None, one, key).ratio() for key in keys), default=0.0) for one in wanted]
        return sum(best) / len(best)

    fitting = [(name, wanted) for name, (of, wanted) in FORMATS.items() if kind in ("auto", of)]
    return sorted(fitting, key=lambda item: -likeness(item[1]))[:count]


def _first(names: Iterable[str], have: Columns[str, Any]) -> str:
    return next((name for name in names if name in have), "")


def _pair(have: dict[str, Any], _kind: str) -> dict[str, str] | None:
    rejected = _first(REJECTED, have)
    if not rejected:
        one_answer = _single(have, "") if {"images", "image"} & have.keys() and _first(REJECTED_IMAGES, have) else None
        return None if one_answer is None else dict.fromkeys(one_answer, "chosen")
    chosen = _first(PARTNERS.get(rejected, ()), have)
    if not chosen and is_answered(have):
        return {rejected: "rejected"}  # the conversation's own last turn is the chosen answer
    chosen = chosen or _first(CHOSEN, have)
    return {chosen: "chosen", rejected: "rejected"} if chosen else None


def _ranked(have: dict[str, Any], _kind: str) -> dict[str, str] | None:
    scores = next((name for name in SCORES if isinstance(have.get(name), list)), "")
    if not scores:
        return None
    if isinstance(have.get("text"), list):
        ids = {key: ours for key, ours in (("type", "mark"), ("query_id", "prompt_id")) if key in have}
        return {"text": "completions", scores: "scores", **ids}
    completions = next((name for name in COMPLETIONS if isinstance(have.get(name), list)), "")
    return {completions: "completions", scores: "scores"} if completions else None


def _labelled(have: dict[str, Any], kind: str) -> dict[str, str] | None:
    label = _first(LABELS, have)
    if not label:
        return None
    meant = isinstance(have[label], bool) or str(have[label]).lower() in ("true", "false")
    if not meant and kind != "labelled":
        return None  # some other label: a class, a topic
    single = _single(have, kind)
    return None if single is None else {**single, label: "label"}


def _single(have: dict[str, Any], _kind: str) -> dict[str, str] | None:
    if is_answered(have):
        return {}
    found = _first(CHOSEN, have)
    return {found: "completion"} if found else None


FINDERS = {"pair": _pair, "ranked": _ranked, "labelled": _labelled, "completion": _single}


def dialogue_of(have: Columns[str, Any]) -> str:
    """The column that holds a conversation as a list of messages, or nothing."""
    return next((name for name in (*DIALOGUES, "prompt") if _is_dialogue(have.get(name))), "")


def _is_dialogue(value: Any) -> bool:
    if isinstance(value, str):  # a CSV cell
        return value.lstrip().startswith("[{")
    return isinstance(value, list) and any(isinstance(entry, dict) for entry in value)


def is_answered(have: Columns[str, Any]) -> bool:
    """Whether the conversation ends with an assistant turn."""
    dialogue = dialogue_of(have)
    last = have[dialogue][-1] if dialogue and isinstance(have[dialogue], list) else None
    if isinstance(last, dict) and ("human" in last or not {"role", "from"} & last.keys()):
        return last.get("assistant") is not None
    return isinstance(last, dict) and _role(last) == "assistant"


def is_whole(value: Any) -> bool:
    """Whether an answer column holds the whole conversation, its prompt included."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return _role(value[0]) != "assistant"
    return is_transcript(value)


def _role(message: Columns[str, Any]) -> str:
    return ROLES.get(str(message.get("role", message.get("from"))).lower(), "")


def _prompt(have: dict[str, Any], answers: dict[str, str]) -> tuple[dict[str, str], str]:
    whole = [key for key, ours in answers.items() if ours in ("chosen", "completion") and is_whole(have[key])]
    if whole:
        return {}, "transcript" if isinstance(have[whole[0]], str) else "conversation"
    if "text" in answers:
        return {}, "APO"
    dialogue = dialogue_of(have)
    if dialogue:
        forms = {"conversation": "conversation", "conversations": "ShareGPT", "prompt": "TRL conversational"}
        return {dialogue: "prompt"}, forms.get(dialogue, "message")
    texts = [name for name in TEXTS if name in have]
    if "instruction" in texts and ("input" in texts or "output" in answers):
        return {"instruction": "prompt", **({"input": "input"} if "input" in texts else {})}, "alpaca"
    if not texts:
        raise BadRow("unknown layout", f"no prompt in it; its keys are {', '.join(map(str, have)) or 'none'}")
    forms = {"query": "ms-swift", "prompt": "prompt/answer", "instruction": "alpaca"}
    return {texts[0]: "prompt"}, forms.get(texts[0], f"{texts[0]}/answer")


def _side(have: dict[str, Any], used: dict[str, str], found: str, form: str) -> dict[str, str]:
    """Columns that go with any format, the first of each meaning."""
    refused = set(used.values())
    if found != "pair":
        refused |= {"rejected_images", "margin"}
    if dialogue_of(have) in used or form in ("conversation", "transcript", "APO"):
        refused.add("history")
    side: dict[str, str] = {}
    for theirs, ours in SIDE.items():
        if theirs in have and theirs not in used and ours not in refused:
            side[theirs] = ours
            refused.add(ours)
    return side
