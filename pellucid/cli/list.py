"""`pellucid list`: the models that need no download."""

from __future__ import annotations

import argparse

from pellucid.cli import terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def main(args: argparse.Namespace) -> None:
    """List the models on this machine and the built-in ones."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pellucid.formats.builtin import BUILTINS
    from pellucid.formats.source import cached_models

    table = Table(box=None, pad_edge=False)
    for heading in ("MODEL", "SIZE", "WHERE"):
        table.add_column(
            heading, justify="right" if heading == "SIZE" else "left", no_wrap=heading != "WHERE", overflow="fold"
        )
    present = cached_models()
    for model in present:
        table.add_row(
            Text(terminal.safe_line(model.name)),
            f"{model.nbytes / 1e6:,.0f} MB",
            Text(terminal.safe_line(str(model.path))),
        )
    names = {model.name for model in present}
    for builtin in BUILTINS.values():
        if builtin.name not in names:
            size = f"{builtin.nbytes / 1e6:,.0f} MB"
            table.add_row(
                builtin.name, size, Text(f"not fetched yet (`pellucid pull {builtin.name}`): {builtin.about}")
            )
    Console(highlight=False).print(table)
