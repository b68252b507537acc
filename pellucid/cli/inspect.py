"""`pellucid inspect`: look into a model file without running it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pellucid.cli import options, terminal
from pellucid.errors import InvalidParameter, UnsupportedModel

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pellucid.tools.inspect import Inspection


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser)
    parser.add_argument("--tensors", action="store_true", help="list every tensor")
    parser.add_argument("--graph", action="store_true", help="print the graph the model becomes, one node a line")
    parser.add_argument("--fused", action="store_true", help="with --graph: after the fuse pass, as it runs")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, arrays in full")


def main(args: argparse.Namespace) -> None:
    """Show a model's metadata, its tensors by type, and the memory it takes.

    Only headers are read, so this is quick for a file of any size.
    """
    if args.fused and not args.graph:
        raise InvalidParameter("fused", "--fused says which graph to print, and nothing prints one; add --graph")
    from pellucid.formats.source import resolve
    from pellucid.tools.inspect import inspect_model

    with terminal.DownloadProgress() as progress:
        path = resolve(args.model, progress=progress)
    found = inspect_model(path, fused=args.fused)
    if args.json:
        print(json.dumps(_as_json(found, with_graph=args.graph), indent=2, default=_plain))
    elif args.graph:
        if found.graph is None:
            raise UnsupportedModel(found.problem or "this model has no graph")
        print(terminal.safe(found.graph.dump()))
    else:
        _show(found, every_tensor=args.tensors)


def _as_json(found: Inspection, *, with_graph: bool) -> dict[str, Any]:
    return {
        "path": str(found.path),
        "format": found.format,
        "config": asdict(found.config) if found.config else None,
        "problem": found.problem,
        "weight_nbytes": found.weight_nbytes,
        "kv_cache_dtype": found.kv_cache_dtype,
        "kv_token_nbytes": found.kv_token_nbytes,
        "types": [asdict(t) for t in found.types],
        "metadata": found.metadata,
        "tensors": [asdict(t) for t in found.tensors],
        **({"graph": found.graph.dump().splitlines()} if with_graph and found.graph else {}),
    }


def _plain(value: Any) -> Any:
    """NumPy arrays and numbers of the metadata as Python's."""
    return value.tolist()


def _show(found: Inspection, *, every_tensor: bool) -> None:
    from pellucid.tools.inspect import abbreviate

    console = terminal.console()
    console.print(terminal.safe_line(str(found.path)), style="bold")
    console.print(f"\nmetadata ({found.format})", style="bold")
    facts = _table("", "")
    for key, value in found.metadata.items():
        facts.add_row(terminal.safe_line(key), terminal.safe_line(abbreviate(value)))
    console.print(facts)

    console.print("\ntensors", style="bold")
    types = _table("TYPE", "TENSORS", "WEIGHTS", "SIZE")
    for total in found.types:
        types.add_row(total.type, f"{total.num_tensors:,}", f"{total.num_weights:,}", _megabytes(total.nbytes))
    console.print(types)
    if every_tensor:
        listing = _table("NAME", "TYPE", "SHAPE", "SIZE")
        for tensor in found.tensors:
            shape = " × ".join(map(str, tensor.shape))
            listing.add_row(terminal.safe_line(tensor.name), tensor.type, shape, _megabytes(tensor.nbytes))
        console.print(listing)
    _show_need(found, console)


def _show_need(found: Inspection, console: Console) -> None:
    console.print("\nmemory", style="bold")
    need = _table("", "")
    need.add_row("weights", _megabytes(found.weight_nbytes))
    if found.config is not None and found.kv_token_nbytes is not None:
        per_token, context = found.kv_token_nbytes, found.config.context_length
        need.add_row("KV cache", f"{_megabytes(per_token * 1000)} for 1,000 tokens in {found.kv_cache_dtype}")
        need.add_row("", f"{_megabytes(per_token * context)} for the full context of {context:,} tokens")
    console.print(need)
    if found.problem is not None:
        console.print(f"\nPellucid cannot run this model: {terminal.safe_line(found.problem)}", style="red")


def _table(*headings: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=any(headings), header_style="dim")
    for index, heading in enumerate(headings):
        last = index == len(headings) - 1
        number = heading in {"TENSORS", "WEIGHTS", "SIZE"}
        table.add_column(heading, justify="right" if number else "left", no_wrap=not last, overflow="fold")
    return table


def _megabytes(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.1f} MB"
