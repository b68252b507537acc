"""Results as OpenAI's response bodies. Source: OpenAI API reference, the chat completion and completion objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pellucid.api.openai_requests import CHAT
from pellucid.engine.outputs import CompletionOutput, Logprob, PositionLogprobs, RequestOutput
from pellucid.errors import InvalidParameter, InvalidRequest, ModelNotFound, PellucidError


def response_body(
    endpoint: str, results: Sequence[RequestOutput], *, key: str, model: str, created: int
) -> dict[str, Any]:
    """The body for the results of one request, one for each of its prompts. `created` is Unix time.

    `usage` leaves out what was found in the prefix cache: that depends on the company, the rest does not.
    """
    chat = endpoint == CHAT
    answers = [(output, _top(result)) for result in results for output in result.outputs]
    prompt_tokens = sum(r.usage.prompt_tokens for r in results)
    completion_tokens = sum(r.usage.completion_tokens for r in results)
    return {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{key}",
        "object": "chat.completion" if chat else "text_completion",
        "created": created,
        "model": model,
        "choices": [(_chat_choice if chat else _text_choice)(i, *answer) for i, answer in enumerate(answers)],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }


def error_body(error: PellucidError) -> dict[str, Any]:
    """OpenAI's shape of an error."""
    asked_wrong = isinstance(error, InvalidRequest | ModelNotFound)
    return {
        "error": {
            "message": str(error),
            "type": "invalid_request_error" if asked_wrong else "server_error",
            "param": error.param if isinstance(error, InvalidParameter) else None,
            "code": error.code,
        }
    }


def receipts(results: Sequence[RequestOutput]) -> list[dict[str, Any]]:
    """What `pellucid verify` needs to make the same answers again. Nothing in it depends on company or cores."""
    records = []
    for result in results:
        receipt = asdict(result.receipt)
        del receipt["cached_tokens"], receipt["threads"]
        outputs = [
            {
                "index": o.index,
                "token_ids": o.token_ids,
                "logprobs": None if o.logprobs is None else [_plain(position) for position in o.logprobs],
            }
            for o in result.outputs
        ]
        records.append({"prompt_token_ids": result.prompt_token_ids, "outputs": outputs, "receipt": receipt})
    return records


def _plain(position: PositionLogprobs) -> dict[str, Any]:
    return {str(token): asdict(logprob) for token, logprob in position.items()}


def _top(result: RequestOutput) -> int:
    """How many of the most likely tokens were asked for at each position."""
    top = result.receipt.sampling_params["logprobs"]
    return top if isinstance(top, int) else 0


def _chat_choice(index: int, answer: CompletionOutput, top: int) -> dict[str, Any]:
    logprobs = None
    if answer.logprobs is not None:
        logprobs = {"content": [_chat_position(position, top) for position in answer.logprobs], "refusal": None}
    return {
        "index": index,
        "message": {"role": "assistant", "content": answer.text, "refusal": None},
        "logprobs": logprobs,
        "finish_reason": answer.finish_reason,
    }


def _chat_position(position: PositionLogprobs, top: int) -> dict[str, Any]:
    chosen = next(iter(position.values()))  # whether it is among the best or not
    best = sorted((e for e in position.values() if e.rank <= top), key=lambda e: e.rank)
    return _token(chosen) | {"top_logprobs": [_token(e) for e in best]}


def _token(entry: Logprob) -> dict[str, Any]:
    text = entry.decoded_token
    return {"token": text, "logprob": entry.logprob, "bytes": list(text.encode("utf-8", "replace"))}


def _text_choice(index: int, answer: CompletionOutput, top: int) -> dict[str, Any]:
    logprobs: dict[str, Any] | None = None
    if answer.logprobs is not None:
        chosen = [next(iter(position.values())) for position in answer.logprobs]
        offsets = [0]
        for entry in chosen:
            offsets.append(offsets[-1] + len(entry.decoded_token))
        logprobs = {
            "tokens": [e.decoded_token for e in chosen],
            "token_logprobs": [e.logprob for e in chosen],
            "top_logprobs": [{e.decoded_token: e.logprob for e in p.values()} for p in answer.logprobs]
            if top
            else None,
            "text_offset": offsets[:-1],
        }
    return {"index": index, "text": answer.text, "logprobs": logprobs, "finish_reason": answer.finish_reason}
