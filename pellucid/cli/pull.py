"""`pellucid pull`: fetch a model, or its newest version."""

from __future__ import annotations

import argparse

from pellucid.cli import options, terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser)


def main(args: argparse.Namespace) -> None:
    """Fetch a model, so that it runs without the network afterwards.

    An interrupted download from a hub goes on where it stopped when the command is given again.
    """
    from pellucid.formats.source import resolve

    with terminal.DownloadProgress() as progress:
        path = resolve(args.model, progress=progress, refresh=True)
    print(terminal.safe_line(str(path)))
