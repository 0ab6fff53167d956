"""Prompts to be sampled from, and the records that are made of them and of their answers."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swiftlike.core.merge import Run
from swiftlike.data.template import Template
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.formats import FORMATS
from swiftlike.datasets_registry.kinds import LeftOut
from swiftlike.datasets_registry.row import Image, Message, Row, Turns
from swiftlike.pipelines.answers import in_text
from swiftlike.pipelines.convert_rows import portable
from swiftlike.pipelines.records import Numbered
from swiftlike.pipelines.row_reader import RowReader
from swiftlike.stages.conversation import Chat, first_turn
from swiftlike.stages.generation import filter_prompt, generation_row, with_responses

TARGETS = {"exo": "exo_generated", "apo": "apo_sample"}  # formats of one text per prompt
_NO_LIMIT = 1 << 62


@dc.dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One prompt. `row` has no answers; `own` is the data set's answer, `kept` the columns that are copied."""

    number: int
    origin: str
    row: Row
    own: str | None
    kept: dict[str, Any]


@dc.dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """The answers to one prompt: one list per temperature, and the greedy one."""

    lists: tuple[tuple[str, ...], ...]
    greedy: str | None = None


class Reader:
    """Records to prompts. BadRow for one that cannot be asked, LeftOut for one that is too short or too long."""

    def __init__(self, run: Run, template: Template) -> None:
        self.args, self.template, self.row_of = run.sample, template, RowReader(run)

    def __call__(self, read: Numbered) -> Asked:
        """The prompt of a record."""
        row, record = self.row_of(read, "prompt"), read.record
        assert isinstance(record, dict)  # a row was made of it
        own = self._own(read) if self.args.include_gt or self.args.output_format == "aipo" else None
        if self.args.include_gt and own is None:
            raise BadRow("no answer of its own", "--include_gt adds the answer of the data, and this row has none")
        if self.args.output_format == "aipo":
            row, own = self._first_turn(row, own)
        self._within_limits(row)
        kept = {name: record[name] for name in self.args.keep_columns if name in record}
        if self.args.output_format == "apo" and not row.prompt_id:
            row = dc.replace(row, prompt_id=str(record.get("query_id") or read.number + 1))
        return Asked(number=read.number, origin=read.origin, row=row, own=own, kept=kept)

    def _own(self, read: Numbered) -> str | None:
        try:
            row = self.row_of(read, "completion")
        except (BadRow, LeftOut):
            return None
        answer = row.completions[0].messages[-1]
        return answer.written if answer.written and self._verbatim else answer.content

    @property
    def _verbatim(self) -> bool:
        """Whether the model continues transcripts as they are written."""
        return self.template.card is not None and self.template.card.verbatim

    def _first_turn(self, row: Row, own: str | None) -> tuple[Row, str | None]:
        """AIPO asks the first query only; its own answer is the one to that."""
        said = [{"role": message.role, "content": message.content} for message in row.prompt.messages]
        turn = first_turn(said if own is None else [*said, {"role": "assistant", "content": own}])
        system = "" if turn.system is None and self.args.add_system_message else turn.system
        messages = [] if system is None else [Message("system", system)]
        prompt = Turns((*messages, Message("user", turn.query)))
        return dc.replace(row, prompt=dc.replace(prompt, images=row.prompt.images[: prompt.tags])), turn.answer

    def _within_limits(self, row: Row) -> None:
        least, most = self.args.prompt_min_length or 0, self.args.prompt_max_length or _NO_LIMIT
        if least == 0 and most == _NO_LIMIT:
            return
        text = "\n".join(message.content for message in row.prompt.messages if message.role != "system")
        if not filter_prompt(text, self._count, prompt_min_length=least, prompt_max_length=most):
            raise LeftOut("a prompt outside --prompt_min_length and --prompt_max_length")

    def _count(self, text: str) -> int:
        return len(self.template.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


class Writer:
    """Answers to a record of the output's format, and what of the row the format has no place for."""

    def __init__(self, run: Run, template: Template, folder: Path) -> None:
        self.args, self.template, self.folder = run.sample, template, folder

    def __call__(self, asked: Asked, sampled: Sampled) -> tuple[dict[str, Any], list[str]]:
        """BadRow when the format cannot hold the prompt."""
        if self.args.output_format in TARGETS:
            record, gone = self._text(asked, sampled)
            return record | asked.kept, gone
        made = self._aipo if self.args.output_format == "aipo" else self._chat
        return made(asked, sampled) | asked.kept, []

    def _answers(self, asked: Asked, sampled: Sampled) -> list[str]:
        """In the order of `with_responses`, but as the model wrote them: white space may be part of an answer."""
        first, *others = sampled.lists
        own = [asked.own] if self.args.include_gt and asked.own is not None else []
        greedy = [] if sampled.greedy is None else [sampled.greedy]
        return [*first, *own, *greedy, *(text for texts in others for text in texts)]

    def _text(self, asked: Asked, sampled: Sampled) -> tuple[dict[str, Any], list[str]]:
        target = FORMATS[TARGETS[self.args.output_format]]
        verbatim = self.template.card is not None and self.template.card.verbatim
        row, gone = in_text(asked.row, self._answers(asked, sampled), target, spaced=verbatim)
        assert target.write is not None
        return target.write(portable(row, self.folder)), gone

    def _chat(self, asked: Asked, sampled: Sampled) -> dict[str, Any]:
        row = portable(asked.row, self.folder)
        record: dict[str, Any] = {"prompt": _chat(row.prompt), "completions": self._answers(asked, sampled)}
        record |= {"images": _sources(row.prompt.images)} if row.prompt.images else {}
        return record | ({"tools": row.tools} if row.tools else {})

    def _aipo(self, asked: Asked, sampled: Sampled) -> dict[str, Any]:
        row = portable(asked.row, self.folder)
        messages = _chat(row.prompt)
        own = [] if asked.own is None else [{"role": "assistant", "content": asked.own}]
        example = generation_row({"messages": [*messages, *own]}, self._templated)
        first, *others = sampled.lists
        record = with_responses(
            example | {"messages": messages},
            first,
            include_gt=self.args.include_gt,
            greedy=sampled.greedy,
            additional=[text for texts in others for text in texts],
        )
        return record | ({"images": _sources(row.prompt.images)} if row.prompt.images else {})

    def _templated(self, chat: Chat) -> str:
        return self.template.prompt_text(Turns(tuple(Message(one["role"], one["content"]) for one in chat)))


def _chat(turns: Turns) -> Chat:
    return [{"role": message.role, "content": message.content} for message in turns.messages]


def _sources(images: Sequence[Image]) -> list[str]:
    import base64

    return [one.source if isinstance(one.source, str) else base64.b64encode(one.source).decode() for one in images]
