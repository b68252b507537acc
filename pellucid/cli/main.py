"""The `pellucid` command. Exit codes: 0 done · 1 the model or the machine failed · 2 wrong use · 130 Ctrl-C.

Each command is one file with `add_arguments(parser)` and `main(args)`, imported when it is asked for, so that
`pellucid run` starts at once. The parser is the standard library's for the same reason: importing typer takes 70 ms,
and its validation by pydantic 115 ms more; argparse takes 5.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import io
import logging
import os
import sys
from collections.abc import Sequence

from pellucid.cli import terminal
from pellucid.errors import InvalidRequest, PellucidError
from pellucid.garbage import uncollected

COMMANDS = {
    "run": "answer one prompt",
    "chat": "talk with a model",
    "serve": "serve a model through OpenAI's HTTP interface",
    "batch": "answer a file of requests (OpenAI's batch format), resumable",
    "verify": "replay requests alone and report any difference, bit for bit",
    "inspect": "show a model's metadata, tensors, memory need and graph",
    "list": "list the models on this machine and the built-in ones",
    "pull": "fetch a model, so that it runs without the network afterwards",
    "bench": "measure speed, cold start and memory beside the machine's limits",
    "bench serve": "load a server and measure what its clients see",
    "doctor": "show what this machine can do, and what will be fast",
}
ABOUT = "An engine for large language models whose inside can be seen: GGUF or safetensors in, text out."


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of `pellucid COMMAND`, or of `pellucid` alone."""
    if command is None:
        parser = argparse.ArgumentParser("pellucid", description=ABOUT, allow_abbrev=False)
        parser.add_argument("--version", action="store_true", help="show the version and exit")
        commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
        for name, summary in COMMANDS.items():
            commands.add_parser(name, help=summary, add_help=False)
        parser.epilog = "`pellucid COMMAND --help` shows a command's options."
        return parser
    module = importlib.import_module(f"pellucid.cli.{command.replace(' ', '_')}")
    parser = argparse.ArgumentParser(
        f"pellucid {command}",
        description=inspect.cleandoc(module.main.__doc__ or ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the log, and where an error comes from")
    parser.set_defaults(main=module.main)
    return parser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The parsed command line; help, version and wrong use end the program."""
    command = next((words for count in (2, 1) if (words := " ".join(arguments[:count])) in COMMANDS), None)
    parser = build_parser(command)
    args = parser.parse_args(arguments[len(command.split()) :] if command else arguments)
    if command is None:
        if args.version:
            from pellucid import __version__

            print(f"pellucid {__version__}")
        else:
            parser.print_help()
        sys.exit(0)
    if "model_option" in args:
        _settle_model(args, parser)
    return args


def _settle_model(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """MODEL may be given as -m instead; what stands in its place is then the prompt, where there is one."""
    if args.model_option is not None:
        if args.model is not None and getattr(args, "prompt", "") is not None:
            parser.error(f"two models given: {args.model!r} and -m {args.model_option!r}")
        args.prompt, args.model = args.model, args.model_option
    if args.model is None:
        parser.error("no MODEL given; try smollm2")


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character shows ? and goes on
    debug, colour = False, None
    try:
        with uncollected():
            args = parse(sys.argv[1:])
        debug, colour = args.debug, getattr(args, "colour", None)
        logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s: %(message)s")
        args.main(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Who read the answer has gone. Nothing is left to say, nor may the last flush of Python's complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if debug:
            raise
        ours = isinstance(error, PellucidError)
        blame = "" if ours else f"{type(error).__name__}, a fault of ours (--debug shows where): "
        terminal.fail(f"{blame}{error}", colour)
        sys.exit(2 if isinstance(error, InvalidRequest) else 1)
