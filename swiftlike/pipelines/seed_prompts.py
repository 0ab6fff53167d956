"""The seeds of `swiftlike self_instruct`: first user turns of data sets of any format, and how long prompts are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run
from swiftlike.core.optional import require
from swiftlike.datasets_registry.card import BadRow
from swiftlike.datasets_registry.kinds import LeftOut
from swiftlike.datasets_registry.row import Row
from swiftlike.pipelines.journal import ERROR
from swiftlike.pipelines.records import LEFT_OUT, Account, read_records
from swiftlike.pipelines.row_reader import RowReader
from swiftlike.stages.conversation import Count


def read_seeds(run: Run, account: Account) -> list[str]:
    """The prompts of all rows, in order; rows that give none are counted in `account`. UserError when there are none.

    With --dedup each text is there once: data sets of pairs repeat their prompts.
    """
    row_of, seeds = RowReader(run), []
    for read in read_records(run, run.generate.seed):
        value = {"origin": read.origin}
        try:
            seeds.append(_seed(row_of(read, "prompt")))
        except LeftOut as reason:
            value[LEFT_OUT] = str(reason)
        except BadRow as error:
            value[ERROR] = str(error)
        account.add(value)
    if not seeds:
        row_of.refuse_unusable()
        raise UserError("no row has a prompt that can be a seed", problems=account.as_lines(run.self_instruct.output))
    return list(dict.fromkeys(seeds)) if run.self_instruct.dedup else seeds


def _seed(row: Row) -> str:
    if row.prompt.images:
        raise LeftOut("a prompt with pictures")
    text = next((message.content for message in row.prompt.messages if message.role == "user"), "")
    if not text.strip():
        raise LeftOut("an empty prompt")
    return text


def counter(run: Run) -> Callable[[Any], Count]:
    """What makes of the model's tokenizer a function that counts the tokens of a text.

    UserError when the tokenizer that is asked for instead cannot be had.
    """
    if run.self_instruct.length_tokenizer == "model":
        return lambda tokenizer: lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    because = "--length_tokenizer cl100k"
    tiktoken = require("tiktoken", because=because, extra="self_instruct")
    try:
        encoding = tiktoken.get_encoding("cl100k_base")
    except (OSError, ValueError) as error:  # no network, or a file that is not the right one
        raise UserError(
            f"{because}: tiktoken cannot get cl100k_base: {str(error).splitlines()[0]}",
            hint="name a folder that has it in TIKTOKEN_CACHE_DIR, or leave --length_tokenizer out",
        ) from error
    return lambda tokenizer: lambda text: len(encoding.encode(text, disallowed_special=()))
