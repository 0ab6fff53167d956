"""The typer application: commands, their help and exit codes.

Flags do not go through typer: since 0.29 it converts every declared option with pydantic (100 ms on first use, and
its own error text, one error at a time). The words of a command reach us through `Context.args`, behind a `--`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, Any

import typer

import swiftlike
from swiftlike.cli.commands import COMMANDS, load
from swiftlike.core.declare import Command
from swiftlike.core.dotted import resolve
from swiftlike.core.errors import UserError

_HELP = ("--help", "-h")


def build_app() -> typer.Typer:
    """Every command by name; what a command declares is loaded when it is called."""
    app = typer.Typer(
        add_completion=False, add_help_option=False, rich_markup_mode=None, pretty_exceptions_enable=False
    )

    @app.callback(invoke_without_command=True)
    def root(
        context: typer.Context,
        show_help: Annotated[bool, typer.Option("--help", "-h", help="Show this text.")] = False,
        version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
    ) -> None:
        """Preference alignment of language and vision-language models.

        `swiftlike COMMAND --help` shows the flags of a command, `--help GROUP` a part of them.
        """
        if version:
            typer.echo(f"swiftlike {swiftlike.__version__}")
        elif context.invoked_subcommand is None:
            typer.echo(context.get_help())

    for name, (_, summary) in COMMANDS.items():
        settings = {"allow_extra_args": True, "ignore_unknown_options": True}
        app.command(name, help=summary, add_help_option=False, context_settings=settings)(_body(name))
    return app


def _body(name: str) -> Callable[[typer.Context], None]:
    def body(context: typer.Context) -> None:
        try:
            code = perform(name, list(context.args))
        except UserError as error:
            _report(str(error))
            code = 2
        except KeyboardInterrupt:
            _report("stopped")
            code = 130
        except Exception:
            from swiftlike.cli.launch import spoken

            if not spoken(os.environ):
                raise
            code = 1  # a broken connection to the process that stopped: its own message is enough
        raise typer.Exit(code)

    body.__annotations__ = {"context": typer.Context}
    return body


def _report(text: str) -> None:
    from swiftlike.cli.launch import speaks

    if speaks(os.environ):
        typer.echo(f"swiftlike: {text}", err=True)


def _help(command: Command, argv: list[str]) -> str:
    from swiftlike.cli.help import page
    from swiftlike.cli.layers import flags_with_plugins
    from swiftlike.cli.normalise import normalise

    asked = next(at for at, word in enumerate(argv) if word in _HELP)
    flags = flags_with_plugins(command, argv[:asked], os.environ)
    return page(flags, "".join(argv[asked + 1 : asked + 2]), normalise(argv[:asked], flags).given)


def perform(name: str, argv: list[str]) -> int:
    """Do what a command line asks for and give the exit code: that of the pipeline when it returns an int."""
    from swiftlike.cli.layers import build_run  # not needed for the list of commands

    command = load(name)
    if set(_HELP) & set(argv):
        typer.echo(_help(command, argv))
        return 0
    run, words = build_run(command, argv, os.environ)
    if words.show_config:
        from swiftlike.cli.listing import config_table

        typer.echo(config_table(run))
        return 0
    if command.distributed:
        from swiftlike.cli import launch

        launch.start([name, *argv], os.environ)
    from swiftlike.core import log

    log.configure(os.environ.get("SWIFTLIKE_LOG_LEVEL", "info"))
    result: Any = resolve(command.target)(run)
    return result if isinstance(result, int) and not isinstance(result, bool) else 0
