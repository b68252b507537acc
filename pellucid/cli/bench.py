"""`pellucid bench`: how fast a model runs here, beside what the machine can do at most."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pellucid.cli import options, terminal
from pellucid.errors import InvalidParameter

WORKS = "prefill,decode,streams,context,profile,llm,mixed,start"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser)
    text = "prompt lengths, separated by commas (default: %(default)s)"
    parser.add_argument("--prefill", metavar="N,…", default="512", help=text)
    parser.add_argument("--decode", metavar="N", type=int, default=128, help="tokens to decode (default: %(default)s)")
    text = "numbers of streams decoded together (default: %(default)s)"
    parser.add_argument("--streams", metavar="N,…", default="1,2,4,8,16,32,64", help=text)
    text = "also prefill contexts of N tokens, and decode at their ends (default: %(default)s, none)"
    parser.add_argument("--context", metavar="N,…", default="0", help=text)
    text = "how often, unless it takes long (default: %(default)s); the table shows medians"
    parser.add_argument("--repeats", metavar="N", type=int, default=3, help=text)
    parser.add_argument("--only", metavar="WORK,…", default=WORKS, help="which works to measure (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all samples, with machine, commit and date")
    group = parser.add_argument_group("engine")
    group.add_argument("-t", "--threads", type=int, metavar="N", help="worker threads (default: all usable cores)")
    text = "instruction set of the kernels, see `pellucid doctor` (default: the best here)"
    group.add_argument("--isa", metavar="NAME", help=text)
    options.add_activations(group)
    group.add_argument("--kv-cache-dtype", metavar="TYPE", default="auto", help="type of cached keys and values")


def main(args: argparse.Namespace) -> None:
    """Measure prefill, decode, many streams, mixed load, cold start and memory, in a table and as JSON.

    Bytes and operations a second stand beside limits that are measured in the same run: how fast memory is read, and
    the multiply-adds of the instruction set. Leave the machine alone meanwhile; other processes' share is told.
    """
    from rich.table import Table

    from pellucid.tools import bench_report
    from pellucid.tools.bench import BenchOptions, bench, save
    from pellucid.tools.neighbours import TOLERABLE

    result = bench(
        args.model,
        BenchOptions(
            threads=args.threads,
            isa=args.isa,
            kv_cache_dtype=args.kv_cache_dtype,
            activations=args.activations,
            prefill=_numbers("prefill", args.prefill),
            decode=args.decode,
            streams=_numbers("streams", args.streams),
            context=() if args.context == "0" else _numbers("context", args.context),
            repeats=args.repeats,
            only=tuple(args.only.split(",")),
        ),
        _progress,
    )
    _progress("")
    if args.json is not None:
        save(result, args.json)
    console, program = terminal.console(), result["program"]
    head = (
        f"{result['model']['name']}, {program['isa']}, {program['threads']} threads, "
        f"activations in {program['activations']}, KV in {program['kv_cache_dtype']}"
    )
    console.print(terminal.safe_line(head), style="bold")
    tables = [
        [
            ["work", "median", "achieved", "share of this machine's limit"],
            *([row.work, row.value, row.achieved, row.of_limit] for row in bench_report.rows(result)),
        ],
        bench_report.profile_table(result["profile"]),
    ]
    for columns, *rows in tables[: 2 if result["profile"] else 1]:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if number else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table, "")
    console.print(f"limits: {bench_report.limits_line(result['limits'])}")
    busy = f"other processes took {result['others']:.0%} of the cores"
    console.print(f"{busy}: too much, these figures mean little" if result["others"] > TOLERABLE else busy)


def _numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InvalidParameter(name, f"expected numbers separated by commas, got {text!r}") from error


def _progress(what: str) -> None:
    """The current work in place on a terminal; nothing elsewhere."""
    if terminal.is_terminal(sys.stderr):
        print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)
