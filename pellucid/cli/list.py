"""`pellucid list`: the models that need no download."""

from __future__ import annotations

import argparse

from pellucid.cli import terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def main(args: argparse.Namespace) -> None:
    """List the models on this machine and the built-in ones."""
    from rich.table import Table

    from pellucid.formats.builtin import BUILTINS
    from pellucid.formats.source import cached_models

    rows = [(model.name, model.nbytes, str(model.path)) for model in cached_models()]
    present = {name for name, _, _ in rows}
    for name, builtin in BUILTINS.items():
        if name not in present:
            rows.append((name, builtin.nbytes, f"not fetched yet (`pellucid pull {name}`): {builtin.about}"))
    table = Table(box=None, pad_edge=False)
    table.add_column("MODEL", no_wrap=True)
    table.add_column("SIZE", justify="right", no_wrap=True)
    table.add_column("WHERE", overflow="fold")
    for name, nbytes, where in rows:
        table.add_row(terminal.safe_line(name), f"{nbytes / 1e6:,.0f} MB", terminal.safe_line(where))
    terminal.console().print(table)
