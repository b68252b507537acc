"""`pellucid run`: one prompt in, the answer streamed to stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli import options, terminal
from pellucid.errors import InvalidParameter, InvalidRequest, PellucidError

if TYPE_CHECKING:
    from pellucid.engine.llm import LLM
    from pellucid.engine.outputs import RequestOutput, StreamChunk
    from pellucid.sampling import SamplingParams


def run(
    model: options.Model,
    prompt: Annotated[
        str | None,
        typer.Argument(help="The prompt; without one, -p, -f or standard input is read.", show_default=False),
    ] = None,
    prompt_option: Annotated[str | None, typer.Option("-p", "--prompt", help="The prompt.", show_default=False)] = None,
    file: Annotated[
        Path | None,
        typer.Option("-f", "--file", help="Read the prompt from a file (- is standard input).", show_default=False),
    ] = None,
    system: options.System = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the prompt as it is, without the model's chat template.")
    ] = False,
    chat_template: options.ChatTemplate = None,
    max_tokens: options.MaxTokens = options.MAX_TOKENS,
    temperature: options.Temperature = options.TEMPERATURE,
    top_k: options.TopK = options.TOP_K,
    top_p: options.TopP = options.TOP_P,
    min_p: options.MinP = options.MIN_P,
    repeat_penalty: options.RepeatPenalty = options.REPEAT_PENALTY,
    seed: options.Seed = options.SEED,
    ctx_size: options.CtxSize = None,
    threads: options.Threads = None,
    isa: options.Isa = None,
    executor: options.Executor = "cpu",
    colour: options.Colour = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the whole result as JSON: text, token ids, metrics, receipt.")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No speed summary on stderr.")] = False,
) -> None:
    """Answer one prompt.

    A model with a chat template gets the prompt as a user's message (--raw continues the text instead); a base model
    continues the text. Standard output holds the answer and nothing else.
    """
    text = _prompt(prompt, prompt_option, file)
    params = options.sampling_params(max_tokens, temperature, top_k, top_p, min_p, repeat_penalty, seed)
    if raw and (system is not None or chat_template is not None):
        raise InvalidParameter("raw", "--raw uses no chat template, so --system and --chat-template would be ignored")
    with options.EngineOptions(model, ctx_size, threads, isa, executor, chat_template).load() as llm:
        result = _write_answer(_start(llm, text, system, raw, chat_template is not None, params), json_output)
        if json_output:
            print(json.dumps(asdict(result), indent=2))
        answer = result.outputs[0]
        if answer.finish_reason == "error":
            raise PellucidError(answer.error or "the request failed")
        if not quiet:
            terminal.note(summary(result), colour)


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


def _prompt(argument: str | None, option: str | None, file: Path | None) -> str:
    """The prompt from the one place that was given; standard input when there is none."""
    given = [name for name, value in (("PROMPT", argument), ("-p", option), ("-f", file)) if value is not None]
    if len(given) > 1:
        raise InvalidParameter("prompt", f"given twice, as {' and as '.join(given)}; expected one")
    if argument is not None or option is not None:
        return argument if argument is not None else option or ""
    if file is not None and str(file) != "-":
        return options.read_text(file, "file")
    if terminal.is_terminal(sys.stdin):
        if file is None:
            raise InvalidParameter(
                "prompt",
                "none given: write it after the model, or use -p, -f or standard input; `pellucid chat` is for talking",
            )
        terminal.note("Reading the prompt from the terminal; end it with Ctrl-D.")
    return options.decode(sys.stdin.buffer.read(), "standard input")


def _start(
    llm: LLM, text: str, system: str | None, raw: bool, own_template: bool, params: SamplingParams
) -> Iterator[StreamChunk]:
    chat = not raw and (own_template or llm.tokenizer.chat_template is not None)
    if not chat:
        if system is not None:
            raise InvalidRequest(
                "this model has no chat template, so there is no place for --system; give one with --chat-template"
            )
        return llm.stream(text, params)
    messages = [{"role": "user", "content": text}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return llm.stream_chat(messages, params)


def _write_answer(chunks: Iterator[StreamChunk], silent: bool) -> RequestOutput:
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
