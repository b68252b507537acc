"""`pellucid run`: one prompt in, the answer streamed to stdout."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pellucid.cli import options, sampling_options, structured_options, terminal
from pellucid.errors import InvalidParameter, InvalidRequest, PellucidError

if TYPE_CHECKING:
    from pellucid.engine.llm import LLM
    from pellucid.engine.outputs import RequestOutput, StreamChunk
    from pellucid.sampling import SamplingParams


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser)
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="without one, -p, -f or standard input is read")
    parser.add_argument("-p", "--prompt", dest="prompt_option", metavar="TEXT", help="the prompt")
    parser.add_argument("-f", "--file", help="read the prompt from a file; - is standard input")
    parser.add_argument("--raw", action="store_true", help="continue the prompt as it is, without the chat template")
    options.add_chat(parser)
    parser.add_argument("--json", action="store_true", help="print the whole result as JSON: text, token ids, receipt")
    parser.add_argument("-q", "--quiet", action="store_true", help="no speed summary on stderr")
    sampling_options.add(parser, (*sampling_options.FLAGS, *sampling_options.MANY_ANSWERS))
    structured_options.add(parser)
    options.add_engine(parser)


def main(args: argparse.Namespace) -> None:
    """Answer one prompt, streamed to standard output, which holds the answer and nothing else.

    A model with a chat template gets the prompt as a user's message; with --raw, or if it has no template, it
    continues the text. The speed is told on stderr.
    """
    prompt = _prompt(args)
    params = sampling_options.sampling_params(args, structured_options.structured_outputs(args))
    if args.raw and (args.system is not None or args.chat_template is not None):
        raise InvalidParameter("raw", "--raw uses no chat template, so --system and --chat-template would be ignored")
    for flag in sampling_options.MANY_ANSWERS:
        if getattr(args, flag.parameter) is not None and not args.json:
            raise InvalidParameter(flag.parameter, f"{flag.names} shows more than one text, so it needs --json")
    with options.load(args) as llm:
        result = _write_answer(_start(llm, prompt, args, params), silent=args.json)
        if args.json:
            print(json.dumps(asdict(result), indent=2))
        answer = result.outputs[0]
        if answer.finish_reason == "error":
            raise PellucidError(answer.error or "the request failed")
        if not args.quiet:
            terminal.note(summary(result), args.colour)


def summary(result: RequestOutput) -> str:
    """One line of figures: tokens, tokens a second, time to the first token, and why the answer ended early."""
    usage, metrics = result.usage, result.metrics
    parts = [f"prompt {usage.prompt_tokens} tokens{_rate(metrics.prefill_tokens_per_second)}"]
    parts.append(f"answer {usage.completion_tokens} tokens{_rate(metrics.decode_tokens_per_second)}")
    if metrics.time_to_first_token is not None:
        parts.append(f"first token after {metrics.time_to_first_token:.2f} s")
    if result.finish_reason == "length":
        full = usage.total_tokens >= result.receipt.max_model_len
        parts.append(f"stopped: {'the context is full' if full else 'the longest answer asked for'}")
    return " · ".join(parts)


def _rate(tokens_per_second: float | None) -> str:
    return "" if tokens_per_second is None else f" ({tokens_per_second:,.1f}/s)"


def _prompt(args: argparse.Namespace) -> str:
    """The prompt from the one place that was given; standard input when there is none."""
    places: dict[str, str | None] = {"PROMPT": args.prompt, "-p": args.prompt_option, "-f": args.file}
    given = [name for name, value in places.items() if value is not None]
    if len(given) > 1:
        raise InvalidParameter("prompt", f"given twice, as {' and as '.join(given)}; expected one")
    if given and given != ["-f"]:
        return places[given[0]] or ""
    if given and args.file != "-":
        return options.read_text(Path(args.file), "file")
    if terminal.is_terminal(sys.stdin):
        if not given:
            where = "write it after the model, or use -p, -f or standard input; `pellucid chat` is for talking"
            raise InvalidParameter("prompt", f"none given: {where}")
        terminal.note("Reading the prompt from the terminal; end it with Ctrl-D.", args.colour)
    return options.decode(sys.stdin.buffer.read(), "standard input")


def _start(llm: LLM, prompt: str, args: argparse.Namespace, params: SamplingParams) -> Iterator[StreamChunk]:
    has_template = args.chat_template is not None or llm.tokenizer.has_chat_template
    if args.raw or not has_template:
        if args.system is not None:
            raise InvalidRequest("this model has no chat template and so no place for --system; see --chat-template")
        return llm.stream(prompt, params)
    messages = [{"role": "user", "content": prompt}]
    if args.system is not None:
        messages.insert(0, {"role": "system", "content": args.system})
    return llm.stream_chat(messages, params, reasoning_parser="none")


def _write_answer(chunks: Iterator[StreamChunk], *, silent: bool) -> RequestOutput:
    """Write the pieces to stdout as they come, made safe on a terminal; returns the whole."""
    on_terminal = terminal.is_terminal(sys.stdout)
    last = ""
    for chunk in chunks:
        if not silent and chunk.text:
            last = terminal.safe(chunk.text) if on_terminal else chunk.text
            sys.stdout.write(last)
            sys.stdout.flush()
    if not silent and not last.endswith("\n"):
        sys.stdout.write("\n")
        sys.stdout.flush()
    assert chunk.result is not None  # the last chunk of a stream has it
    return chunk.result
