"""Results as Anthropic's messages, whole or as events. Source: Anthropic API reference, "Messages" and "Streaming"."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pellucid.api.blocks import Block, BlockStream, blocks_of
from pellucid.api.openai_responses import error_body as openai_error_body
from pellucid.engine.outputs import CompletionOutput, RequestOutput, StreamChunk
from pellucid.errors import PellucidError

Event = tuple[str, dict[str, Any]]
"""Its name and its data."""

_ERROR_TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large",
    429: "rate_limit_error", 503: "overloaded_error",
}  # fmt: skip


def message_body(result: RequestOutput, *, key: str, model: str) -> dict[str, Any]:
    """The message that answers one request."""
    answer = result.outputs[0]
    blocks = [_content(block) for block in blocks_of(answer)]
    return {
        **_head(key, model),
        "content": [block for block in blocks if block is not None],
        **_ending(answer),
        "usage": {**_input_usage(result.usage.prompt_tokens, result.usage.cached_tokens),
                  "output_tokens": result.usage.completion_tokens},
    }  # fmt: skip


def error_body(error: PellucidError, request_id: str) -> dict[str, Any]:
    """Anthropic's shape of an error, with the code and field that OpenAI's has."""
    kind = "invalid_request_error" if error.http_status < 500 else "api_error"
    same = openai_error_body(error)["error"]
    return {
        "type": "error",
        "error": {**same, "type": _ERROR_TYPES.get(error.http_status, kind)},
        "request_id": request_id,
    }


class MessageStream:
    """The events of one request's stream."""

    def __init__(self, *, key: str, model: str) -> None:
        self._start = _head(key, model)
        self._blocks = BlockStream()

    def opening(self, prompt_tokens: int, cached_tokens: int) -> Iterator[Event]:
        usage = {**_input_usage(prompt_tokens, cached_tokens), "output_tokens": 0}
        message = {**self._start, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        yield "message_start", {"type": "message_start", "message": message}

    def piece(self, chunk: StreamChunk) -> Iterator[Event]:
        return self._events(self._blocks.piece(chunk))

    def closing(self, result: RequestOutput) -> Iterator[Event]:
        yield from self._events(self._blocks.close())
        delta = _ending(result.outputs[0])
        usage = {"output_tokens": result.usage.completion_tokens}
        yield "message_delta", {"type": "message_delta", "delta": delta, "usage": usage}
        yield "message_stop", {"type": "message_stop"}

    def _events(self, steps: Any) -> Iterator[Event]:
        for step, block, text in steps:
            if step == "begins":
                name, more = "content_block_start", {"content_block": _empty(block)}
            elif step == "grows":
                name, more = "content_block_delta", {"delta": _delta(block, text)}
            else:
                name, more = "content_block_stop", {}
            yield name, {"type": name, "index": block.index, **more}


def _head(key: str, model: str) -> dict[str, Any]:
    return {"id": f"msg_{key}", "type": "message", "role": "assistant", "model": model}


def _input_usage(prompt_tokens: int, cached_tokens: int) -> dict[str, Any]:
    """Anthropic counts cached tokens beside the others."""
    return {
        "input_tokens": prompt_tokens - cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached_tokens,
    }


def _ending(answer: CompletionOutput) -> dict[str, Any]:
    if answer.finish_reason == "length":
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if answer.tool_calls:
        return {"stop_reason": "tool_use", "stop_sequence": None}
    if isinstance(answer.stop_reason, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": answer.stop_reason}
    return {"stop_reason": "end_turn", "stop_sequence": None}


def _content(block: Block) -> dict[str, Any] | None:
    """A whole block; None for a call that was cut off before its arguments were an object."""
    if block.kind == "text":
        return {"type": "text", "text": block.text, "citations": None}
    if block.kind == "reasoning":
        return {"type": "thinking", "thinking": block.text, "signature": ""}
    try:
        arguments = json.loads(block.text)
    except ValueError:
        return None
    return {"type": "tool_use", "id": block.id, "name": block.name, "input": arguments}


def _empty(block: Block) -> dict[str, Any]:
    if block.kind == "text":
        return {"type": "text", "text": ""}
    if block.kind == "reasoning":
        return {"type": "thinking", "thinking": "", "signature": ""}
    return {"type": "tool_use", "id": block.id, "name": block.name, "input": {}}


def _delta(block: Block, text: str) -> dict[str, Any]:
    if block.kind == "text":
        return {"type": "text_delta", "text": text}
    if block.kind == "reasoning":
        return {"type": "thinking_delta", "thinking": text}
    return {"type": "input_json_delta", "partial_json": text}
