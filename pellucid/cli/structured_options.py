"""The flags of `run` that say what form the answer must have."""

from __future__ import annotations

import argparse
from pathlib import Path

from pellucid.cli import options
from pellucid.errors import InvalidParameter
from pellucid.structured_outputs import StructuredOutputs


def add(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("form of the answer (docs/structured-output.md); one of")
    text = "JSON that satisfies this schema: a file, or its text"
    group.add_argument("-j", "--json-schema", metavar="SCHEMA", help=text)
    text = "a text of this grammar: a .gbnf or .lark file, or its text; with ::= in it, it is GBNF, else Lark"
    group.add_argument("--grammar", metavar="GRAMMAR", help=text)
    group.add_argument("--regex", metavar="TEXT", help="a text that this whole regular expression matches")
    text = "one of the texts given so; the flag may be there several times"
    group.add_argument("--choice", metavar="TEXT", action="append", help=text)


def structured_outputs(args: argparse.Namespace) -> StructuredOutputs | None:
    """The form that the flags ask for. Raises InvalidParameter."""
    names = ("json_schema", "grammar", "regex", "choice")
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) is not None]
    if not given:
        return None
    if len(given) > 1:
        raise InvalidParameter(given[1].lstrip("-"), f"{' and '.join(given)} are both given; the answer has one form")
    if args.json_schema is not None:
        return StructuredOutputs(json=_text(args.json_schema, "json-schema"))
    if args.grammar is not None:
        suffix = Path(args.grammar).suffix if isinstance(options.text_or_file(args.grammar), Path) else ""
        text = _text(args.grammar, "grammar")
        is_gbnf = suffix == ".gbnf" or (suffix != ".lark" and "::=" in text)
        return StructuredOutputs(gbnf=text) if is_gbnf else StructuredOutputs(grammar=text)
    return StructuredOutputs(regex=args.regex) if args.regex is not None else StructuredOutputs(choice=args.choice)


def _text(given: str, what: str) -> str:
    found = options.text_or_file(given)
    return options.read_text(found, what) if isinstance(found, Path) else given
