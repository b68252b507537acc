"""Blocks: an answer as a row of parts (reasoning, text, calls), as Messages and Responses tell it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pellucid.engine.outputs import CompletionOutput, PositionLogprobs, StreamChunk

Kind = Literal["reasoning", "text", "call"]


@dataclass
class Block:
    """One part. `text` is what it says; of a call, its arguments. `id` and `name` are a call's.

    `logprobs`: of text, those of the tokens that came with its pieces.
    """

    index: int
    kind: Kind
    id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    logprobs: list[PositionLogprobs] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


Step = tuple[Literal["begins", "grows", "ends"], Block, str]
"""What happens to which block; the text that is new."""


class BlockStream:
    """Blocks from the chunks of one answer. `blocks` are those so far."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self._open: Block | None = None
        self._call = -1
        self._early: list[PositionLogprobs] = []  # of tokens before which no part has begun

    def piece(self, chunk: StreamChunk) -> Iterator[Step]:
        if chunk.reasoning:
            self._early = []
            yield from self._grow("reasoning", chunk.reasoning)
        says_more = self._open is not None and self._open.kind == "text" and chunk.logprobs and not chunk.tool_calls
        if chunk.text or says_more:
            yield from self._grow("text", chunk.text, self._early + chunk.logprobs)
            self._early = []
        elif not self.blocks:
            self._early = self._early + chunk.logprobs
        for call in chunk.tool_calls:
            if call.index != self._call:
                self._call = call.index
                yield from self._begin(Block(len(self.blocks), "call", call.id or "", call.name or ""))
            yield from self._grow("call", call.arguments)

    def close(self) -> Iterator[Step]:
        """The answer has ended."""
        if self._open is not None:
            block, self._open = self._open, None
            yield "ends", block, ""

    def _grow(self, kind: Kind, text: str, logprobs: Sequence[PositionLogprobs] = ()) -> Iterator[Step]:
        if self._open is None or self._open.kind != kind:
            yield from self._begin(Block(len(self.blocks), kind))
        assert self._open is not None
        if text or logprobs:
            self._open.pieces.append(text)
            self._open.logprobs += logprobs
            yield "grows", self._open, text

    def _begin(self, block: Block) -> Iterator[Step]:
        yield from self.close()
        self.blocks.append(block)
        self._open = block
        yield "begins", block, ""


def blocks_of(answer: CompletionOutput) -> list[Block]:
    """Those of a whole answer: reasoning, text, calls."""
    found: list[Block] = []
    if answer.reasoning:
        found.append(Block(0, "reasoning", pieces=[answer.reasoning]))
    if answer.text or not answer.tool_calls:
        found.append(Block(len(found), "text", pieces=[answer.text]))
    for call in answer.tool_calls:
        found.append(Block(len(found), "call", call.id, call.name, [call.arguments]))
    return found
