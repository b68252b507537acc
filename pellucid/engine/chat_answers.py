"""Reads the answers of a chat: what `results.py` makes of text, with reasoning and tool calls split off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pellucid.chat.parser import AnswerParser
from pellucid.chat.turn import Turn
from pellucid.engine.outputs import CompletionOutput, RequestOutput, StreamChunk
from pellucid.sampling import SamplingParams


def chat_params(params: SamplingParams, turn: Turn) -> SamplingParams:
    """`params` with the control tokens that the parser must see, and those that end an answer with calls."""
    return replace(
        params,
        visible_token_ids=[*params.visible_token_ids, *turn.visible_token_ids],
        stop_token_ids=[*params.stop_token_ids, *turn.stop_token_ids],
    )


def read_result(result: RequestOutput, turn: Turn) -> RequestOutput:
    """`result` with its answers read as `turn` says."""
    if turn.is_plain:
        return result
    return replace(
        result, outputs=[_read(output, turn.parser(result.receipt.seed, output.index)) for output in result.outputs]
    )


def read_chunk(chunk: StreamChunk, parsers: Mapping[int, AnswerParser]) -> StreamChunk:
    """`chunk` with its text read by the parser of its answer."""
    delta = parsers[chunk.index].feed(chunk.text, final=chunk.finish_reason is not None)
    return replace(chunk, text=delta.content, reasoning=delta.reasoning, tool_calls=list(delta.tool_calls))


def _read(output: CompletionOutput, parser: AnswerParser) -> CompletionOutput:
    parser.feed(output.text, final=True)
    return replace(output, text=parser.content, reasoning=parser.reasoning or None, tool_calls=parser.tool_calls)
