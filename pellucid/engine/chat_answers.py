"""Reads the answers of a chat: what `results.py` makes of text, with reasoning and tool calls split off."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pellucid.engine.outputs import CompletionOutput, RequestOutput, StreamChunk
from pellucid.engine.request import Request
from pellucid.errors import InvalidParameter
from pellucid.sampling import SamplingParams
from pellucid.structured_outputs import StructuredOutputs

if TYPE_CHECKING:
    from pellucid.chat.parser import AnswerParser
    from pellucid.chat.turn import Turn


def chat_params(params: SamplingParams, turn: Turn) -> SamplingParams:
    """`params` with the control tokens that the parser must see, those that end an answer with calls, and its form.

    Raises InvalidParameter for what does not go together with calls or reasoning.
    """
    if params.echo:
        raise InvalidParameter("echo", "a chat's prompt is the template's; use generate()")
    own = params.structured_outputs
    assert own is None or isinstance(own, StructuredOutputs)
    return replace(
        params,
        visible_token_ids=[*params.visible_token_ids, *turn.visible_token_ids],
        stop_token_ids=[*params.stop_token_ids, *turn.stop_token_ids],
        structured_outputs=turn.form(own),
    )


class ChatReader:
    """Reads the answers of one prompt as `turn` says; with None, or a plain turn, they stay as they are."""

    def __init__(self, turn: Turn | None) -> None:
        self._turn = None if turn is None or turn.is_plain else turn
        self._parsers: dict[int, AnswerParser] = {}

    def chunk(self, chunk: StreamChunk, request: Request) -> StreamChunk:
        """`chunk`, the next one of `request`, with its text read."""
        if self._turn is None:
            return chunk
        if chunk.index not in self._parsers:
            self._parsers[chunk.index] = self._turn.parser(request.sampler.seed, chunk.index)
        delta = self._parsers[chunk.index].feed(chunk.text, final=chunk.finish_reason is not None)
        return replace(chunk, text=delta.content, reasoning=delta.reasoning, tool_calls=list(delta.tool_calls))

    def result(self, result: RequestOutput) -> RequestOutput:
        turn = self._turn
        if turn is None:
            return result
        outputs = [_read(output, turn.parser(result.receipt.seed, output.index)) for output in result.outputs]
        return replace(result, outputs=outputs)


def _read(output: CompletionOutput, parser: AnswerParser) -> CompletionOutput:
    parser.feed(output.text, final=True)
    return replace(output, text=parser.content, reasoning=parser.reasoning or None, tool_calls=parser.tool_calls)
