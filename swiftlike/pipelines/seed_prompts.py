"""The seeds of `swiftlike self_instruct`: first user turns of data sets of any format, and how long prompts are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from swiftlike.core.errors import UserError
from swiftlike.core.merge import Run
from swiftlike.core.optional import require
from swiftlike.data.check import Pictures
from swiftlike.data.convert import Converter
from swiftlike.data.load import max_bytes
from swiftlike.datasets_registry.kinds import LeftOut
from swiftlike.datasets_registry.row import Row
from swiftlike.pipelines.journal import ERROR
from swiftlike.pipelines.records import LEFT_OUT, Account, Numbered, read_records
from swiftlike.stages.conversation import Count


def read_seeds(run: Run, account: Account) -> list[str]:
    """The prompts of all rows, in order; rows that give none are counted in `account`. UserError when there are none.

    With --dedup each text is there once: data sets of pairs repeat their prompts.
    """
    read = _Reader(run)
    seeds = []
    for one in read_records(run, run.generate.seed):
        value = read(one)
        if account.add(value):
            seeds.append(value["seed"])
    if not seeds:
        for converter in read.converters.values():
            converter.refuse_unusable()
        raise UserError("no row has a prompt that can be a seed", problems=account.as_lines(run.self_instruct.output))
    return list(dict.fromkeys(seeds)) if run.self_instruct.dedup else seeds


class _Reader:
    """Records to values of an account: `seed`, or why there is none."""

    def __init__(self, run: Run) -> None:
        self.run, self.pictures = run, Pictures(max_bytes=max_bytes(run.data))
        self.converters: dict[int, Converter] = {}

    def __call__(self, read: Numbered) -> dict[str, Any]:
        source = read.source
        if id(source) not in self.converters:
            self.converters[id(source)] = Converter(source, "prompt", self.pictures, self.run.data.image_root)
        report = self.converters[id(source)].report
        report.problems.clear()
        rows = self.converters[id(source)].rows(read.record, read.origin)
        if report.problems:
            problem = report.problems[0]
            reason = f"{problem.kind}: {problem.detail}" if problem.detail else problem.kind
            return {ERROR: reason, "origin": read.origin}
        try:
            return {"seed": _seed(rows), "origin": read.origin}
        except LeftOut as reason:
            return {LEFT_OUT: str(reason), "origin": read.origin}


def _seed(rows: tuple[Row, ...]) -> str:
    if not rows:
        raise LeftOut("the data set's own rule")
    prompt = rows[0].prompt
    if prompt.images:
        raise LeftOut("a prompt with pictures")
    text = next((message.content for message in prompt.messages if message.role == "user"), "")
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
