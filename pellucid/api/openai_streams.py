"""Streamed answers in OpenAI's shape. Source: OpenAI API reference, chat completion chunk and completion objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pellucid.api.openai_responses import chat_logprobs, finish_reason, text_logprobs, usage
from pellucid.api.openai_schemas import CHAT
from pellucid.engine.outputs import RequestOutput, StreamChunk


class OpenAIStream:
    """The chunks of one request's stream. `top`: how many likely tokens at each position were asked for, or None."""

    def __init__(self, endpoint: str, *, key: str, model: str, created: int, top: int | None, with_usage: bool) -> None:
        self._chat = endpoint == CHAT
        self._head = {
            "id": f"{'chatcmpl' if self._chat else 'cmpl'}-{key}",
            "object": "chat.completion.chunk" if self._chat else "text_completion",
            "created": created,
            "model": model,
        }
        self._top = top
        self._with_usage = with_usage
        self._begun: set[int] = set()
        self._with_calls: set[int] = set()
        self._offsets: dict[int, int] = {}

    def opening(self, index: int) -> list[dict[str, Any]]:
        """What comes before the first piece of answer `index`: in a chat, the role."""
        if index in self._begun or not self._chat:
            return []
        self._begun.add(index)
        return [self._chunk(index, {"delta": {"role": "assistant", "content": ""}}, None, None)]

    def piece(self, index: int, chunk: StreamChunk) -> list[dict[str, Any]]:
        """The chunks for what is new in answer `index`; none if nothing of it can be seen."""
        reason = chunk.finish_reason
        logprobs = self._logprobs(index, chunk)
        if not self._chat:
            if not (chunk.text or logprobs or reason):
                return []
            return [self._chunk(index, {"text": chunk.text}, logprobs, reason)]
        chunks = self.opening(index)
        delta: dict[str, Any] = {}
        if chunk.text or logprobs:
            delta["content"] = chunk.text
        if chunk.reasoning:
            delta["reasoning_content"] = chunk.reasoning
        if chunk.tool_calls:
            self._with_calls.add(index)
            delta["tool_calls"] = [_call(call.index, call.id, call.name, call.arguments) for call in chunk.tool_calls]
        if delta:
            chunks.append(self._chunk(index, {"delta": delta}, logprobs, None))
        if reason:
            chunks.append(self._chunk(index, {"delta": {}}, None, finish_reason(reason, index in self._with_calls)))
        return chunks

    def closing(self, results: Sequence[RequestOutput]) -> list[dict[str, Any]]:
        if not self._with_usage:
            return []
        return [{**self._head, "choices": [], "usage": usage(results, cached=True)}]

    def extra(self, **fields: Any) -> dict[str, Any]:
        """A chunk without choices, with fields of our own."""
        return {**self._head, "choices": [], **fields}

    def _chunk(self, index: int, part: dict[str, Any], logprobs: Any, reason: str | None) -> dict[str, Any]:
        chunk: dict[str, Any] = {
            **self._head,
            "choices": [{"index": index, **part, "logprobs": logprobs, "finish_reason": reason}],
        }
        if self._with_usage:
            chunk["usage"] = None
        return chunk

    def _logprobs(self, index: int, chunk: StreamChunk) -> dict[str, Any] | None:
        if self._top is None or not chunk.logprobs:
            return None
        if self._chat:
            return chat_logprobs(chunk.logprobs, self._top)
        offset = self._offsets.get(index, 0)
        self._offsets[index] = offset + sum(len(next(iter(p.values())).decoded_token) for p in chunk.logprobs)
        return text_logprobs(chunk.logprobs, self._top, offset)


def _call(index: int, id: str | None, name: str | None, arguments: str) -> dict[str, Any]:
    if id is None:
        return {"index": index, "function": {"arguments": arguments}}
    return {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
