"""The `pellucid` command. Exit codes: 0 done · 1 the model or the machine failed · 2 wrong use · 130 Ctrl-C.

Commands live in one file each. They import what they need when they run, so that `pellucid run` starts at once.
"""

from __future__ import annotations

import io
import logging
import sys
from typing import Annotated

import typer

from pellucid.cli import terminal
from pellucid.cli.chat import chat
from pellucid.cli.doctor import doctor
from pellucid.cli.inspect import inspect
from pellucid.cli.list import list_models
from pellucid.cli.pull import pull
from pellucid.cli.run import run
from pellucid.errors import InvalidRequest, PellucidError

app = typer.Typer(
    name="pellucid",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run)
app.command("chat")(chat)
app.command("inspect")(inspect)
app.command("list")(list_models)
app.command("pull")(pull)
app.command("doctor")(doctor)


def _version(wanted: bool) -> None:
    if wanted:
        from pellucid import __version__

        print(f"pellucid {__version__}")
        raise typer.Exit


def _set_up_log(debug: bool) -> None:
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s: %(message)s")


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the log, and where an error comes from.", callback=_set_up_log)
    ] = False,
) -> None:
    """An engine for large language models whose inside can be seen: GGUF or safetensors in, text out."""


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character shows ? and goes on
    try:
        app()
    except Exception as error:
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            raise
        if isinstance(error, PellucidError):
            terminal.fail(str(error))
        else:
            terminal.fail(
                f"{type(error).__name__}: {error}. This is a fault of ours: `pellucid --debug …` shows where."
            )
        sys.exit(2 if isinstance(error, InvalidRequest) else 1)
