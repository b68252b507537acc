"""`pellucid serve`: a model behind OpenAI's HTTP interface."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.cli import options, terminal
from pellucid.config import api_key, traces_wanted
from pellucid.errors import InvalidParameter
from pellucid.garbage import uncollected

if TYPE_CHECKING:
    from pellucid.server.registry import ModelRegistry, ServedModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser)
    text = "what requests call the model (default: its name, without a folder)"
    parser.add_argument("--served-model-name", metavar="NAME", help=text)
    text = "serve another model, too, under this name; may be given several times"
    parser.add_argument("--add-model", metavar="NAME=MODEL", action="append", default=[], help=text)
    text = "Jinja template, or a file with one, in place of the model's"
    parser.add_argument("--chat-template", metavar="TEMPLATE", help=text)
    text = "load the models of --add-model by the first request for them"
    parser.add_argument("--on-demand", action="store_true", help=text)
    options.add_engine(parser)
    group = parser.add_argument_group("load")
    text = "most answers computed at the same time (default: %(default)s)"
    group.add_argument("--max-num-seqs", type=int, default=64, metavar="N", help=text)
    text = "most tokens in one step (default: %(default)s)"
    group.add_argument("-b", "--batch-size", type=int, default=512, metavar="N", help=text)
    group.add_argument("--kv-cache-memory", metavar="SIZE", help="memory for keys and values, such as 2GiB")
    text = "most requests that wait; more are refused with 429 (default: %(default)s)"
    group.add_argument("--max-queue", type=int, default=256, metavar="N", help=text)
    text = "most tokens that wait (default: %(default)s)"
    group.add_argument("--max-queue-tokens", type=int, default=1_000_000, metavar="N", help=text)
    group = parser.add_argument_group("access")
    text = "address to listen on; 0.0.0.0 is open to the network (default: %(default)s)"
    group.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help=text)
    group.add_argument("--port", type=int, default=8000, metavar="N", help="0 takes a free one (default: %(default)s)")
    text = "a key that every request must bring; others see it in the list of processes: better PELLUCID_API_KEY"
    group.add_argument("--api-key", metavar="KEY", help=text)
    group.add_argument("--keys", type=Path, metavar="FILE", help="API keys with names, limits and priorities (TOML)")
    text = "another name by which the server may be called; * for any"
    group.add_argument("--allowed-host", metavar="NAME", action="append", default=[], help=text)
    text = "web pages that may call the server, such as https://chat.example.org"
    group.add_argument("--cors-origin", metavar="ORIGIN", action="append", default=[], help=text)
    group.add_argument("--tls-certificate", type=Path, metavar="FILE", help="certificate chain (PEM), for HTTPS")
    group.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key (PEM)")
    group = parser.add_argument_group("operation")
    text = "leave out unknown fields of requests, and name them in a header, rather than refuse them"
    group.add_argument("--no-strict", dest="strict", action="store_false", help=text)
    text = "seconds that running requests have to end after the first SIGTERM (default: %(default)g)"
    group.add_argument("--drain-time", type=float, default=60.0, metavar="S", help=text)
    text = "the log, on standard error: text or json (default: %(default)s)"
    group.add_argument("--log-format", choices=("text", "json"), default="text", help=text)
    group.add_argument("--log-prompts", action="store_true", help="the log also has what users write and are answered")
    text = (
        "send OpenTelemetry spans to this OTLP/HTTP receiver, such as http://localhost:4318 (or set OTEL_* variables)"
    )
    group.add_argument("--otlp-endpoint", metavar="URL", help=text)
    text = "spans also have what users write and are answered"
    group.add_argument("--trace-prompts", action="store_true", help=text)


def main(args: argparse.Namespace) -> None:
    """Serve a model through OpenAI's HTTP interface, until SIGTERM or Ctrl-C; twice stops at once.

    docs/serving.md describes endpoints, limits and operation. Without --api-key, --keys or PELLUCID_API_KEY, everyone
    who can reach the address may use it.
    """
    from pellucid.server.registry import ModelRegistry

    models = _models(args)
    registry = ModelRegistry(models, log_format=args.log_format)
    try:
        registry.start()  # it loads while the web framework is imported
        _serve(args, registry)
    finally:
        registry.kill()


def _serve(args: argparse.Namespace, registry: ModelRegistry) -> None:
    with uncollected():
        from pellucid.server import logs
        from pellucid.server.banner import print_banner
        from pellucid.server.serve import serve
        from pellucid.server.settings import Limits, ServerSettings

    logs.set_up(args.log_format, logging.DEBUG if args.debug else logging.INFO)
    if args.api_key is not None:
        terminal.note("--api-key is visible to every user of this machine; PELLUCID_API_KEY or --keys are not")
    settings = ServerSettings(
        host=args.host,
        port=args.port,
        allowed_hosts=tuple(args.allowed_host),
        keys_file=args.keys,
        api_key=args.api_key if args.api_key is not None else api_key(),
        cors_origins=tuple(args.cors_origin),
        strict=args.strict,
        tls_certificate=args.tls_certificate,
        tls_key=args.tls_key,
        drain_time=args.drain_time,
        log_prompts=args.log_prompts,
        traces=args.otlp_endpoint is not None or traces_wanted(),
        otlp_endpoint=args.otlp_endpoint,
        trace_prompts=args.trace_prompts,
        limits=Limits(queued_requests=args.max_queue, queued_tokens=args.max_queue_tokens),
    )
    serve(registry, settings, print_banner)


def _models(args: argparse.Namespace) -> list[ServedModel]:
    from pellucid.formats.source import resolve
    from pellucid.server.registry import ServedModel

    name = args.served_model_name or _name(args.model)
    wanted = [(name, args.model)]
    for text in args.add_model:
        other, separator, model = text.partition("=")
        if not separator or not model:
            raise InvalidParameter("--add-model", f"expected NAME=MODEL, got {text!r}")
        wanted.append((other, model))
    with terminal.DownloadProgress() as progress:
        for _, model in wanted:
            resolve(model, progress=progress)
    common: dict[str, Any] = {
        "max_model_len": args.ctx_size,
        "threads": args.threads,
        "isa": args.isa,
        "executor": args.executor,
        "kv_cache_dtype": args.kv_cache_dtype,
        "activations": args.activations,
        "max_num_seqs": args.max_num_seqs,
        "max_num_batched_tokens": args.batch_size,
        "kv_cache_memory": args.kv_cache_memory,
    }
    templates = {name: options.text_or_file(args.chat_template)}
    return [
        ServedModel(
            each,
            {"model": model, **common, "chat_template": templates.get(each)},
            on_demand=args.on_demand and each != name,
        )
        for each, model in wanted
    ]


def _name(model: str) -> str:
    """A model's name from how it was asked for: without folders, and without what a name cannot have."""
    name = Path(model).name.removesuffix(".gguf") if Path(model).exists() else model
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name).strip(".-") or "model"
