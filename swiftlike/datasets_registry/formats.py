"""The file formats that `swiftlike convert` reads and writes, by name.

A format's own reader brings a record into a layout that `shapes.to_row` knows; its writer (`written`) makes a record of
a Row. In between a row is a conversation, or one text (`texts`), as the format to write needs it.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Sequence
from typing import Any

from swiftlike.datasets_registry import readers, written
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.kinds import kind_of, to_kind
from swiftlike.datasets_registry.row import Row
from swiftlike.datasets_registry.texts import as_conversations, as_texts
from swiftlike.datasets_registry.turns import is_transcript

Record = dict[str, Any]

AUTO = "auto"
GENERATED = "generated"  # several answers of nobody's judgement
GIVES = {  # kind of the rows that are read -> kinds that they can be written as, the natural one first
    "pair": ("pair", "completion", "labelled", "ranked", GENERATED),
    "ranked": ("ranked", "pair", "completion", "labelled", GENERATED),
    "labelled": ("labelled", "completion"),
    "completion": ("completion",),
    GENERATED: (GENERATED,),
}
_FLEXIBLE = ("pair", "completion", "labelled")
_FULL = frozenset({"system prompts", "margins", "tool definitions"})


@dc.dataclass(frozen=True, kw_only=True)
class Format:
    """One file format.

    `kinds` are what its rows are. `needs` are the columns that a record must have (`a|b`: one of them), `sign` is how a
    record shows that it is of this format (for `auto`), `read` brings it into a layout that `to_row` knows. `write` is
    None for formats that are only read. `text` says that a prompt is one text, `transcript` that its own prompts are
    transcripts. `keeps` are the features of FEATURES that it has a place for.
    """

    name: str
    kinds: tuple[str, ...]
    needs: tuple[str, ...]
    help: str
    write: Callable[[Row], Record] | None = None
    read: Callable[[Record], Record] = dict
    sign: Callable[[Record], bool] | None = None
    text: bool = False
    transcript: bool = False
    numbered: bool = False  # every row has a query_id
    keeps: frozenset[str] = frozenset()


FORMATS = {
    one.name: one
    for one in (
        # `auto` takes the first whose sign a record shows
        Format(
            name="tldr",
            kinds=("pair", "completion"),
            needs=(),
            help="OpenAI's TL;DR comparisons or filtered posts, as published",
            read=readers.tldr,
            sign=readers.is_tldr,
            text=True,
        ),
        Format(
            name="hh",
            kinds=("pair",),
            needs=("chosen", "rejected"),
            help="Anthropic's transcripts, Human: and Assistant:",
            write=written.hh,
            sign=lambda record: is_transcript(record.get("chosen")) and is_transcript(record.get("rejected")),
            transcript=True,
        ),
        Format(
            name="apo_comparison",
            kinds=("ranked",),
            needs=("text", "scores"),
            help="APO: texts query<sep>answer with scores",
            write=written.apo_comparison,
            sign=lambda record: isinstance(record.get("text"), list) and isinstance(record.get("scores"), list),
            text=True,
            keeps=frozenset({"scores", "all answers", "query ids", "types"}),
        ),
        Format(
            name="apo_golden",
            kinds=("completion",),
            needs=("query|instruction", "golden"),
            help="APO: golden answers with query_id",
            write=written.apo_golden,
            read=readers.apo_golden,
            sign=readers.has_texts("query", "golden"),
            text=True,
            numbered=True,
            keeps=frozenset({"query ids"}),
        ),
        Format(
            name="apo_sample",
            kinds=(GENERATED,),
            needs=("query|instruction",),
            help="APO: sampled answers sample_0 ... with query_id; --scores ranks them",
            write=written.apo_sample,
            read=readers.apo_sample,
            sign=readers.is_sample,
            text=True,
            numbered=True,
            keeps=frozenset({"query ids", "all answers"}),
        ),
        Format(
            name="exo_reward",
            kinds=("ranked",),
            needs=("prompt", "completions", "rewards"),
            help="EXO: completions with rewards",
            write=written.exo_reward,
            read=readers.exo,
            sign=readers.has_lists("completions", "rewards"),
            text=True,
            keeps=frozenset({"scores", "all answers"}),
        ),
        Format(
            name="exo_generated",
            kinds=(GENERATED,),
            needs=("prompt", "completions"),
            help="EXO: completions without rewards",
            write=written.exo_generated,
            read=readers.exo_generated,
            sign=lambda record: readers.has_lists("completions")(record) and "scores" not in record,
            text=True,
            keeps=frozenset({"all answers"}),
        ),
        Format(
            name="exo_preference",
            kinds=("pair",),
            needs=("prompt", "chosen", "rejected"),
            help="EXO, TRL as text: prompt, chosen, rejected",
            write=written.exo_preference,
            read=readers.exo,
            sign=readers.has_texts("prompt", "chosen", "rejected"),
            text=True,
        ),
        Format(
            name="exo_sft",
            kinds=("completion",),
            needs=("prompt", "chosen"),
            help="EXO: prompt, chosen",
            write=written.exo_sft,
            read=readers.exo,
            sign=lambda record: readers.has_texts("prompt", "chosen")(record) and "rejected" not in record,
            text=True,
        ),
        Format(
            name="swift_v2",
            kinds=_FLEXIBLE,
            needs=("query", "response"),
            help="ms-swift v2: query, response, rejected_response or label",
            write=written.swift_v2,
            keeps=_FULL,
        ),
        Format(
            name="swift_v4",
            kinds=_FLEXIBLE,
            needs=("messages",),
            help="ms-swift v4: messages, rejected_response or label",
            write=written.swift_v4,
            keeps=_FULL | {"empty system prompts", "loss marks"},
        ),
        Format(
            name="trl",
            kinds=_FLEXIBLE,
            needs=("prompt|chosen",),
            help="TRL, conversational: prompt, chosen, rejected as message lists",
            write=written.trl,
            keeps=_FULL | {"empty system prompts", "loss marks"},
        ),
        Format(
            name="sharegpt",
            kinds=_FLEXIBLE,
            needs=("conversations",),
            help="ShareGPT: conversations of from and value, chosen, rejected or kto_tag",
            write=written.sharegpt,
            keeps=(_FULL | {"empty system prompts"}) - {"margins"},
        ),
        Format(
            name="chat_pair",
            kinds=("pair",),
            needs=("chosen", "rejected"),
            help="AIPO: chosen and rejected as whole message lists",
            write=written.chat_pair,
            keeps=frozenset({"system prompts", "empty system prompts", "loss marks"}),
        ),
        Format(
            name="kto",
            kinds=("labelled",),
            needs=("label|kto_tag",),
            help="ms-swift: messages, label",
            write=written.kto,
            keeps=frozenset({"system prompts", "empty system prompts", "loss marks", "tool definitions"}),
        ),
        Format(
            name="sft",
            kinds=("completion",),
            needs=("query|messages|prompt|conversations|instruction",),
            help="query, response; from apo_sample with --scores its rows with target",
            write=written.swift_v2,
            keeps=_FULL - {"margins"},
        ),
    )
}
_JUDGED = tuple(kind for kind in GIVES if kind != GENERATED)
ANY = Format(name=AUTO, kinds=_JUDGED, needs=(), help="recognised row by row, by its columns")


def format_of(record: Record) -> Format:
    """The format whose sign a record shows; ANY when `to_row` has to find out."""
    return next((one for one in FORMATS.values() if one.sign is not None and one.sign(record)), ANY)


def read_as(form: Format, record: Record) -> Record:
    """A record of that format in a layout that `to_row` knows. BadRow when it is of another."""
    for need in form.needs:
        if not any(record.get(column) is not None for column in need.split("|")):
            columns = ", ".join(map(str, record)) or "none"
            raise BadRow(f"not {form.name}", f"no column {need.replace('|', ' or ')}; its columns are {columns}")
    return form.read(record)


def targets(kinds: Sequence[str]) -> list[str]:
    """Formats that rows of these kinds can be written as."""
    possible = {kind for one in kinds for kind in GIVES[one]}
    return [one.name for one in FORMATS.values() if one.write is not None and possible & set(one.kinds)]


def fitted(row: Row, form: Format) -> tuple[Row, ...]:
    """The rows of a kind that the format can hold. LeftOut for ties and disliked answers, BadRow for none."""
    have = kind_of(row)
    if have in form.kinds or (GENERATED in form.kinds and row.size > 1):
        return (row,)
    if form.kinds == (GENERATED,):
        raise BadRow("a single answer", f"{form.name} has several to a prompt")
    kind = next((kind for kind in GIVES.get(have, ()) if kind in form.kinds), form.kinds[0])
    rows = to_kind(row, kind)
    return tuple(dc.replace(one, scores=(1, 0)) for one in rows) if (have, kind) == ("pair", "ranked") else rows


def spoken(row: Row, source: Format, target: Format) -> Row:
    """The row with its prompts as `target` needs them: texts, or conversations."""
    if target.text:
        return as_texts(row, source.transcript)
    return as_conversations(row) if source.text else row


def _in_prompts(row: Row, role: str) -> list[str]:
    prompts = {row.prompt, *row.prompts}
    return [message.content for turns in prompts for message in turns.messages if message.role == role]


def _is_marked(row: Row) -> bool:
    turns = (row.prompt, *row.prompts, *row.completions)
    return not all(message.trained for one in turns for message in one.messages)


FEATURES: dict[str, Callable[[Row], bool]] = {  # what not every format has a place for
    "system prompts": lambda row: any(_in_prompts(row, "system")),
    "empty system prompts": lambda row: "" in _in_prompts(row, "system"),
    "loss marks": _is_marked,
    "tool definitions": lambda row: bool(row.tools),
    "margins": lambda row: row.margin is not None,
    "scores": lambda row: bool(row.scores) and any(row.scores),
    "query ids": lambda row: bool(row.prompt_id),
    "types": lambda row: bool(row.mark),
}


def lost(row: Row, source: Format, target: Format) -> list[str]:
    """What of a row (as it was read) the target has no place for."""
    gone = [name for name, has in FEATURES.items() if name not in target.keeps and has(row)]
    kinds, have = set(target.kinds), kind_of(row)
    if have == "pair" and {"completion"} in (kinds, set(source.kinds)):
        gone.append("rejected answers")
    if have == "ranked" and row.size > 2 and "all answers" not in target.keeps:
        gone.append("answers between the best and the worst" if "pair" in kinds else "answers but the best")
    return gone + (["white space around turns"] if _loses_blanks(row, target) else [])


def _loses_blanks(row: Row, target: Format) -> bool:
    """Whether a turn that becomes part of a transcript begins or ends with white space."""
    turns = [message for message in row.prompt.messages if message.role != "system"]
    if target.transcript:
        turns += [message for one in row.completions for message in one.messages]
    elif not target.text or len(turns) == 1:
        return False
    return any(message.content != message.content.strip() for message in turns)
