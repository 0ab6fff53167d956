"""`swiftlike filter_pairs DATASET...`: preference pairs to those that AIPO trains on, in its order of filters."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.core.log import get_logger
from swiftlike.core.merge import Run
from swiftlike.data.check import problems
from swiftlike.data.template import Template
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.formats import ANY, FORMATS, lost
from swiftlike.datasets_registry.kinds import LeftOut
from swiftlike.datasets_registry.row import Message, Row, Turns
from swiftlike.pipelines.answers import in_conversation
from swiftlike.pipelines.convert import write
from swiftlike.pipelines.convert_rows import portable
from swiftlike.pipelines.journal import ERROR
from swiftlike.pipelines.prepare import open_checkpoint
from swiftlike.pipelines.records import LEFT_OUT, Account, open_output, read_records
from swiftlike.pipelines.row_reader import RowReader
from swiftlike.stages.conversation import Chat, Count
from swiftlike.stages.conversation import Template as ToText
from swiftlike.stages.pair_filters import COPIES, PairFilters, dpo_row, filter_pairs

_PAIR = FORMATS["chat_pair"]
_EQUAL = "chosen equals rejected"
_log = get_logger(__name__)
Record = Mapping[str, Any]


def run(run: Run) -> int:
    """Filter what `run.data.dataset` holds. Exit code 1: nothing is left."""
    args = run.filter_pairs
    output = open_output(run, args.output, args.overwrite)
    copies = {name: output.with_name(f"{name}.jsonl") for name in COPIES} if args.keep_copies else {}
    if output in copies.values():
        raise UserError(f"--output {output} is the name of a copy", hint="give another, or --keep_copies false")
    filters = PairFilters(
        max_length=run.data.max_length,
        max_prompt_length=run.data.max_prompt_length,
        filter_urls=args.filter_urls,
        ignore_rejected=args.ignore_rejected,
    )
    if filters.max_response_length < 1:
        raise UserError(
            f"--max_length {filters.max_length} less --max_prompt_length {filters.max_prompt_length} and 32 tokens "
            "leaves nothing for answers"
        )
    template, account = open_checkpoint(run, weights=False).template, Account()
    rows = Reader(run, template, account)(output.parent)
    steps = filter_pairs(rows, filters, counter(template))
    _count_dropped(steps, filters, account)
    for name, path in copies.items():
        _copy(path, steps.get(name, ()))
    *_, left = steps.values()
    return account.write(output, (row["record"] for row in left))  # last: once it is there, all is


def _copy(path: Path, rows: Sequence[Record]) -> None:
    """A copy of what a step left; none of a step that left nothing or was not taken."""
    try:
        if not write(path, (row["record"] for row in rows)):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _count_dropped(steps: Mapping[str, Sequence[Record]], filters: PairFilters, account: Account) -> None:
    (_, before), *others = steps.items()
    for name, after in others:
        kept = {id(row) for row in after}
        for row in before:
            if id(row) not in kept:
                account.left_out.add(filters.why(name), row["origin"])
        _log.info("%s: %d of %d pairs", name, len(after), len(before))
        before = after


def templated(template: Template) -> ToText:
    """Messages to the text that the model continues, its first token included: AIPO counts it, and encodes the text
    as it stands."""
    first = template.card is not None and template.card.bos and template.tokenizer.bos_token
    bos = first or ""
    return lambda chat: bos + template.prompt_text(Turns(tuple(Message(one["role"], one["content"]) for one in chat)))


def counter(template: Template) -> Count:
    """Tokens of a text, none added."""
    return lambda text: len(template.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


class Reader:
    """Pairs with their first turns as text; the account is told what became of the other records."""

    def __init__(self, run: Run, template: Template, account: Account) -> None:
        self.run, self.account = run, account
        self.to_text, self.row_of = templated(template), RowReader(run)

    def __call__(self, folder: Path) -> list[dict[str, Any]]:
        """What `filter_pairs` takes, each with the `record` to write into a file of that folder, and its origin."""
        found = []
        for read in read_records(self.run, self.run.filter_pairs.seed):
            value: dict[str, Any] = {}
            try:
                row = in_conversation(self.row_of(read, "pair"))
                first, texts = first_pair(row, self.to_text)
                self._refuse(first)
                value = {"record": written(first, folder), "origin": read.origin, **texts}
                found.append(value)
                self.account.lost.update(_gone(row))
            except LeftOut as reason:
                value = {LEFT_OUT: str(reason), "origin": read.origin}
            except BadRow as error:
                value = {ERROR: str(error), "origin": read.origin}
            self.account.add(value)
        return found

    def _refuse(self, row: Row) -> None:
        """What training would refuse; a pair that differs only behind its first answers teaches nothing."""
        for problem in problems(row, self.row_of.pictures):
            if problem.kind == _EQUAL:
                raise LeftOut("the first answers are equal")
            raise BadRow(problem.kind, problem.detail)


def first_pair(row: Row, to_text: ToText) -> tuple[Row, dict[str, str]]:
    """The pair of the first answers to the first user turn, as a row and as AIPO's texts. BadRow when chosen and
    rejected do not begin alike or have no answers."""
    sides = [(row.prompt_of(k), row.completions[k]) for k in range(2)]
    chats = [_chat(prompt.messages + answer.messages) for prompt, answer in sides]
    texts = dpo_row({"chosen": chats[0], "rejected": chats[1]}, to_text)
    prompts, answers = zip(*(_first(prompt, answer) for prompt, answer in sides), strict=True)
    same = prompts[0] == prompts[1]
    return dc.replace(row, prompt=prompts[0], prompts=() if same else prompts, completions=answers), texts


def _first(prompt: Turns, answer: Turns) -> tuple[Turns, Turns]:
    messages, images = prompt.messages + answer.messages, prompt.images + answer.images
    end = 1 + next(k for k, message in enumerate(messages) if message.role == "user")
    asked, said = Turns(messages[:end]), Turns(messages[end : end + 1])
    shown = asked.tags
    return dc.replace(asked, images=images[:shown]), dc.replace(said, images=images[shown : shown + said.tags])


def written(row: Row, folder: Path) -> dict[str, Any]:
    """Chosen and rejected as whole conversations, and pictures. BadRow when each has pictures of its own."""
    assert _PAIR.write is not None
    return _PAIR.write(portable(row, folder))


def _gone(row: Row) -> list[str]:
    """What of the row is not written."""
    later = any(len(_chat(turns.messages)) > 1 for turns in row.completions)
    said = [message for message in row.prompt.messages if message.role != "system"]
    return [*(["later turns"] if later or len(said) > 1 else []), *lost(row, ANY, _PAIR)]


def _chat(messages: Sequence[Message]) -> Chat:
    return [{"role": message.role, "content": message.content} for message in messages]
