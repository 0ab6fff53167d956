"""Prompts from standard input, one a line, answers to standard output in the same order."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable

from swiftlike.core.errors import UserError
from swiftlike.core.log import get_logger
from swiftlike.core.merge import Run
from swiftlike.datasets_registry.card import BadRow
from swiftlike.engines.base import Sampling
from swiftlike.pipelines.infer.chat import open_talk
from swiftlike.pipelines.infer.terminal import Terminal
from swiftlike.pipelines.serving import Opened

log = get_logger(__name__)
_NOTHING = "standard input is empty: give --val_dataset, or a prompt on each line, or run it in a terminal to talk"


def run_piped(run: Run, opened: Opened, sampling: Sampling, source: Iterable[str] | None = None) -> int:
    """Each line is a prompt of its own, answered before the next is read; for a reward model a line with the question
    is followed by one with the answer to judge. Exit code 1 when a line got no answer."""
    lines = (line.rstrip("\r\n") for line in (sys.stdin if source is None else source) if line.strip())
    first = next(lines, None)
    if first is None:
        raise UserError(_NOTHING)
    failed = 0
    with open_talk(run, opened, sampling, Terminal(lambda prompt: _next(lines, prompt))) as talk:
        for line in itertools.chain([first], lines):
            talk.forget()
            try:
                talk.ask(line)
            except ValueError as error:
                failed += 1
                log.error("no answer to %r: %s", line[:60], error)
    return int(failed > 0)


def _next(lines: Iterable[str], prompt: str) -> str:
    """The line behind the one that is asked: a judged answer, or where a picture is."""
    line = next(iter(lines), None)
    if line is None:
        raise BadRow("end of input", f"a line is missing: {prompt.partition(' <<<')[0]}")
    return line
