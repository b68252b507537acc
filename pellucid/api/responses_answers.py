"""Results as OpenAI's response objects, whole or as events. Source: OpenAI API reference, "Responses", "Streaming"."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pellucid.api.blocks import Block, BlockStream, Step, blocks_of
from pellucid.api.openai_responses import chat_position
from pellucid.engine.outputs import PositionLogprobs, RequestOutput, StreamChunk
from pellucid.errors import PellucidError

_PREFIX = {"text": "msg", "reasoning": "rs", "call": "fc"}
_PART = {"text": "output_text", "reasoning": "reasoning_text"}


def begun(echo: Mapping[str, Any], *, key: str, model: str, created: int) -> dict[str, Any]:
    """The response that nothing is there of yet. `created` is Unix time."""
    return {
        "id": f"resp_{key}",
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [],
        "reasoning": {"effort": None, "summary": None},
        "truncation": "disabled",
        "usage": None,
        **echo,
    }


def ended(response: dict[str, Any], result: RequestOutput, blocks: Iterable[Block] | None = None) -> dict[str, Any]:
    """The response with its answer, whose parts are `blocks`; without them, those that `result` has."""
    answer = result.outputs[0]
    cut = answer.finish_reason == "length"
    found = [b for b in blocks_of(answer) if b.text or b.kind == "call"] if blocks is None else list(blocks)
    output = [_item(response, block, "completed") for block in found]
    if cut and output and found[-1].kind != "reasoning":
        output[-1]["status"] = "incomplete"
    return {
        **response,
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": output,
        "usage": _usage(result),
    }


def answer_message(result: RequestOutput) -> dict[str, Any]:
    """The answer as a message to go on after. A call that was cut off is not in it: no tool can have been run."""
    message: dict[str, Any] = dict(result.outputs[0].message)
    calls = [call.as_dict() for call in result.outputs[0].tool_calls if _is_object(call.arguments)]
    message.pop("tool_calls", None)
    return message | {"tool_calls": calls} if calls else message


class ResponseStream:
    """The events of one response's stream, each with its place in it. `response` is what it begins with."""

    def __init__(self, response: dict[str, Any]) -> None:
        self.response = response
        self._blocks = BlockStream()
        self._count = 0
        self._num_logprobs = 0  # of the open block, told

    def opening(self) -> Iterator[dict[str, Any]]:
        yield self._event("response.created", response=self.response)
        yield self._event("response.in_progress", response=self.response)

    def piece(self, chunk: StreamChunk) -> Iterator[dict[str, Any]]:
        for step in self._blocks.piece(chunk):
            yield from self._told(step, "completed")

    def closing(self, response: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """`response`: the whole one, of `whole`."""
        for step in self._blocks.close():
            yield from self._told(step, response["output"][-1].get("status", "completed"))
        yield self._event(f"response.{response['status']}", response=response)

    def whole(self, result: RequestOutput) -> dict[str, Any]:
        """The response with the parts that were told."""
        return ended(self.response, result, self._blocks.blocks)

    def failing(self, error: PellucidError) -> dict[str, Any]:
        """The last event of a stream that failed."""
        output = [_item(self.response, block, "incomplete") for block in self._blocks.blocks]
        said = {"code": "server_error", "message": str(error)}
        return self._event(
            "response.failed", response={**self.response, "status": "failed", "error": said, "output": output}
        )

    def _told(self, step: Step, status: str) -> Iterator[dict[str, Any]]:
        what, block, text = step
        at = {"output_index": block.index}
        inside = {"item_id": _id(self.response, block), **at}
        call = block.kind == "call"
        if not call:
            inside["content_index"] = 0
        name = "function_call_arguments" if call else _PART[block.kind]
        logprobs: dict[str, Any] = {}
        if block.kind == "text":
            first = self._num_logprobs if what == "grows" else 0
            logprobs = {"logprobs": _logprobs(self.response, block.logprobs[first:])}
            self._num_logprobs = 0 if what == "ends" else len(block.logprobs)
        if what == "begins":
            empty = _item(self.response, Block(block.index, block.kind, block.id, block.name), "in_progress")
            if not call:
                empty["content"] = []
            yield self._event("response.output_item.added", **at, item=empty)
            if not call:
                yield self._event(
                    "response.content_part.added", **inside, part=_part(self.response, Block(block.index, block.kind))
                )
        elif what == "grows":
            yield self._event(f"response.{name}.delta", **inside, delta=text, **logprobs)
        else:
            if call:
                yield self._event(f"response.{name}.done", **inside, name=block.name, arguments=block.text)
            else:
                yield self._event(f"response.{name}.done", **inside, text=block.text, **logprobs)
                yield self._event("response.content_part.done", **inside, part=_part(self.response, block))
            yield self._event("response.output_item.done", **at, item=_item(self.response, block, status))

    def _event(self, kind: str, **more: Any) -> dict[str, Any]:
        self._count += 1
        return {"type": kind, "sequence_number": self._count - 1, **more}


def _id(response: Mapping[str, Any], block: Block) -> str:
    return f"{_PREFIX[block.kind]}_{response['id'].removeprefix('resp_')}_{block.index}"


def _item(response: Mapping[str, Any], block: Block, status: str) -> dict[str, Any]:
    id = _id(response, block)
    if block.kind == "call":
        return {
            "type": "function_call", "id": id, "call_id": block.id, "name": block.name, "arguments": block.text,
            "status": status,
        }  # fmt: skip
    content = [_part(response, block)]
    if block.kind == "reasoning":
        return {"type": "reasoning", "id": id, "summary": [], "content": content}
    return {"type": "message", "id": id, "role": "assistant", "status": status, "content": content}


def _part(response: Mapping[str, Any], block: Block) -> dict[str, Any]:
    if block.kind == "reasoning":
        return {"type": "reasoning_text", "text": block.text}
    logprobs = _logprobs(response, block.logprobs)
    return {"type": "output_text", "text": block.text, "annotations": [], "logprobs": logprobs}


def _logprobs(response: Mapping[str, Any], positions: Sequence[PositionLogprobs]) -> list[dict[str, Any]]:
    return [chat_position(position, response["top_logprobs"]) for position in positions]


def _usage(result: RequestOutput) -> dict[str, Any]:
    """Tokens of reasoning are counted with the others: the engine does not tell them apart."""
    usage = result.usage
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total_tokens,
    }


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
