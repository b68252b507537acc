"""The options that commands share, with the names people know from other engines."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pellucid.cli import terminal
from pellucid.errors import InvalidParameter
from pellucid.garbage import uncollected

if TYPE_CHECKING:
    from pellucid.engine.llm import LLM


def add_model(parser: argparse.ArgumentParser) -> None:
    text = "a .gguf file, a folder, a built-in name (smollm2), or a hub id (org/name, org/name:file.gguf)"
    parser.add_argument("model", metavar="MODEL", nargs="?", help=text)
    parser.add_argument("-m", "--model", dest="model_option", metavar="MODEL", help="the same, as an option")


def add_chat(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--system", metavar="TEXT", help="system message of the chat")
    text = "Jinja template, or a file with one, in place of the model's"
    parser.add_argument("--chat-template", metavar="TEMPLATE", help=text)
    text = "colour, or none; by default on a terminal, unless NO_COLOR is set"
    parser.add_argument("--color", dest="colour", action=argparse.BooleanOptionalAction, help=text)


def add_engine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("engine")
    text = "most tokens of prompt and answer together (default: the model's)"
    group.add_argument("-c", "--ctx-size", type=int, metavar="N", help=text)
    group.add_argument("-t", "--threads", type=int, metavar="N", help="worker threads (default: all usable cores)")
    text = "instruction set of the kernels, see `pellucid doctor` (default: the best here)"
    group.add_argument("--isa", metavar="NAME", help=text)
    text = "keys and values in float32, float16, bfloat16 or q8_0 (default: auto, see docs/quality.md)"
    group.add_argument("--kv-cache-dtype", default="auto", metavar="TYPE", help=text)
    add_activations(group)
    text = "cpu, or reference: NumPy, slow, the specification (default: %(default)s)"
    group.add_argument("--executor", default="cpu", metavar="NAME", help=text)


def add_activations(group: argparse._ArgumentGroup) -> None:
    text = "round inputs of quantised weights to int16 (the default), int8 (faster, less precise) or bfloat16 (for AMX)"
    group.add_argument("--activations", choices=("int16", "int8", "bfloat16"), default="auto", help=text)


def load(args: argparse.Namespace, *, max_num_seqs: int = 1) -> LLM:
    """The model in memory (for one conversation), downloaded with a progress bar if need be."""
    from pellucid.formats.source import resolve

    with terminal.DownloadProgress() as progress:
        resolve(args.model, progress=progress)

    with uncollected():
        from pellucid.engine.llm import LLM

        return LLM(
            args.model,
            max_model_len=args.ctx_size,
            threads=args.threads,
            isa=args.isa,
            executor=args.executor,
            kv_cache_dtype=args.kv_cache_dtype,
            activations=args.activations,
            chat_template=text_or_file(args.chat_template),
            max_num_seqs=max_num_seqs,
        )


def read_text(path: Path, what: str) -> str:
    """The text of a file the user named; exactly one newline at its end is taken off."""
    try:
        return decode(path.read_bytes(), what)
    except OSError as error:
        raise InvalidParameter(what, f"{str(path)!r} cannot be read: {error.strerror}") from error


def decode(data: bytes, what: str) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidParameter(
            what, f"expected UTF-8 text, found byte 0x{data[error.start]:02x} at offset {error.start}"
        ) from error
    return text.removesuffix("\n").removesuffix("\r")


def text_or_file(template: str | None) -> str | Path | None:
    if template is None:
        return None
    with suppress(OSError, ValueError):  # Jinja text is no file name
        if Path(template).is_file():
            return Path(template)
    return template
