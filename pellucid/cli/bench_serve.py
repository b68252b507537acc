"""`pellucid bench serve`: what the clients of a server see under load."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from pellucid.cli import terminal
from pellucid.config import api_key
from pellucid.errors import ResourceError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from pellucid.tools.bench_serve_jobs import MIXES

    text = "a server with OpenAI's interface, such as http://127.0.0.1:8000; or a MODEL, to serve it meanwhile"
    parser.add_argument("server", metavar="URL|MODEL", help=text)
    text = "clients that send their next request when the last one has ended (default: 8, unless there is a --rate)"
    parser.add_argument("-c", "--concurrency", type=int, metavar="N", help=text)
    text = "or: requests a second on average, at random times (Poisson), however fast the server is"
    parser.add_argument("--rate", type=float, metavar="R", help=text)
    parser.add_argument("-n", "--requests", type=int, metavar="N", default=100, help="how many (default: %(default)s)")
    text = "lengths: " + "; ".join(f"{name} ({about})" for name, (about, _) in MIXES.items())
    parser.add_argument("--mix", choices=tuple(MIXES), default="sharegpt", help=f"{text} (default: %(default)s)")
    text = "another seed gives other lengths, words and times (default: %(default)s)"
    parser.add_argument("--seed", type=int, metavar="N", default=0, help=text)
    parser.add_argument("--chat", action="store_true", help="ask /v1/chat/completions, not /v1/completions")
    parser.add_argument("--model-name", metavar="NAME", help="which of the server's models (default: its first)")
    text = "an answer is good whose first token comes within S seconds (default: %(default)g)"
    parser.add_argument("--slo-ttft", type=float, metavar="S", default=2.0, help=text)
    text = "and whose tokens come at most S seconds after each other on average (default: %(default)g)"
    parser.add_argument("--slo-itl", type=float, metavar="S", default=0.2, help=text)
    text = "N more connections that send a request so slowly that it never ends (default: none)"
    parser.add_argument("--slow-loris", type=int, metavar="N", default=0, help=text)
    text = "clients that are refused come again, after the time that the server names (default: they do not)"
    parser.add_argument("--retry", action="store_true", help=text)
    text = "seconds after which a client gives up (default: %(default)g)"
    parser.add_argument("--timeout", type=float, metavar="S", default=600.0, help=text)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the result there, too")
    text = "draw what clients saw over time there, as SVG"
    parser.add_argument("--plot", metavar="FILE", type=Path, help=text)


def main(args: argparse.Namespace) -> None:
    """Load a server and measure what its clients see: tokens a second, time to the first token and between tokens.

    Servers are loaded through /v1/completions or /v1/chat/completions with streams; Pellucid, vLLM and llama-server
    have been tried. Tokens are counted by the server's `usage`. A key is taken from PELLUCID_API_KEY.
    """
    from rich.table import Table

    from pellucid.tools.bench import save
    from pellucid.tools.bench_serve import LoadOptions, load
    from pellucid.tools.bench_serve_report import rows
    from pellucid.tools.served import served

    options = LoadOptions(
        num_requests=args.requests,
        concurrency=8 if args.concurrency is None and args.rate is None else args.concurrency,
        rate=args.rate,
        mix=args.mix,
        seed=args.seed,
        chat=args.chat,
        slo_ttft=args.slo_ttft,
        slo_itl=args.slo_itl,
        slow_loris=args.slow_loris,
        retry=args.retry,
        timeout=args.timeout,
    )
    with served(args.server) as url:
        result = load(url, options, args.model_name, api_key(), _progress)
    _progress("")
    if args.json is not None:
        save(result, args.json)
    if args.plot is not None:
        _draw(result, args.plot)
    console = terminal.console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "p50", "p90", "p99"):
        table.add_column(column, justify="left" if not column else "right")
    for row in rows(result):
        table.add_row(*row)
    console.print(terminal.safe_line(result["model"]), style="bold")
    console.print(table)
    client = result["client_cpu_seconds"] / result["seconds"]
    console.print(
        f"\nthis client took {client:.0%} of a core, the server and others {result['others']:.0%} of all cores"
    )


def _draw(result: dict[str, Any], path: Path) -> None:
    from pellucid.tools.bench_serve_plot import plot

    try:
        path.write_text(plot(result), encoding="utf-8")
    except OSError as error:
        raise ResourceError(f"cannot write {path}: {error.strerror or error}") from error


def _progress(what: str) -> None:
    """The current work in place on a terminal; nothing elsewhere."""
    if terminal.is_terminal(sys.stderr):
        print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)
