"""Entry point: find the command, hand it its words, end with an exit code.

0 done, 2 something in the user's input is wrong, 130 stopped by the user, 1 anything else (with a traceback).
"""

from __future__ import annotations

import atexit
import io
import os
import sys
from typing import NoReturn

import typer

from swiftlike.cli.app import build_app
from swiftlike.cli.commands import COMMANDS
from swiftlike.core import collector
from swiftlike.core.errors import suggestion
from swiftlike.core.parent import end_with_parent


def main(argv: list[str] | None = None) -> NoReturn:
    """Run `swiftlike argv` and end the process."""
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # what data files hold is not always what a terminal can write
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        name, rest = _command(words)
        build_app()(args=[name, "--", *rest] if name else rest, prog_name="swiftlike")
    except BrokenPipeError:  # `swiftlike rlhf --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def entry() -> NoReturn:
    """The installed command. Once torch is loaded, the process ends without tearing its native threads down: they have
    been seen to abort while the interpreter exits (exit code 134 after a finished run)."""
    code = 0
    collector.rarely()
    end_with_parent(os.environ)
    try:
        main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    if "torch" in sys.modules:
        atexit._run_exitfuncs()  # trackers finish their uploads there
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _command(words: list[str]) -> tuple[str, list[str]]:
    """The command and its words; "" when only options of swiftlike itself are given. Ends with 2 when unknown."""
    if not words or words[0].startswith("-"):
        _only_options(words)
        return "", words
    name, rest = words[0].replace("-", "_"), words[1:]
    if name == "help":
        return (rest[0], ["--help", *rest[1:]]) if rest and rest[0] in COMMANDS else ("", ["--help"])
    if name in COMMANDS:
        return name, rest
    from swiftlike.args.rlhf import LossSections  # cold, but a dozen files

    losses = LossSections.names()
    if name in losses:  # ms-swift v2's `swift dpo`
        return "rlhf", ["--rlhf_type", name, *rest]
    typer.echo(
        f"swiftlike: unknown command {words[0]!r}{suggestion(name, (*COMMANDS, *losses))}\n"
        f"  commands: {', '.join(COMMANDS)}",
        err=True,
    )
    sys.exit(2)


def _only_options(words: list[str]) -> None:
    known = ("--help", "-h", "--version")
    wrong = next((word for word in words if word not in known), None)
    if wrong is not None:
        typer.echo(f"swiftlike: {wrong} comes after a command: swiftlike COMMAND {' '.join(words)}", err=True)
        sys.exit(2)
