"""Results as OpenAI's response bodies. Source: OpenAI API reference, the chat completion and completion objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import PurePath
from typing import Any

from pellucid.api.openai_schemas import CHAT
from pellucid.engine.outputs import CompletionOutput, Logprob, PositionLogprobs, Receipt, RequestOutput
from pellucid.errors import InvalidParameter, PellucidError


def response_body(
    endpoint: str, results: Sequence[RequestOutput], *, key: str, model: str, created: int, cached: bool = False
) -> dict[str, Any]:
    """The body for the results of one request, one for each of its prompts. `created` is Unix time.

    With `cached`, `usage` says what was found in the prefix cache: that depends on the company, the rest does not.
    """
    chat = endpoint == CHAT
    answers = [(output, top_logprobs(result.receipt)) for result in results for output in result.outputs]
    return {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{key}",
        "object": "chat.completion" if chat else "text_completion",
        "created": created,
        "model": model,
        "choices": [(_chat_choice if chat else _text_choice)(i, *answer) for i, answer in enumerate(answers)],
        "usage": usage(results, cached=cached),
    }


def usage(results: Sequence[RequestOutput], *, cached: bool) -> dict[str, Any]:
    prompt_tokens = sum(r.usage.prompt_tokens for r in results)
    completion_tokens = sum(r.usage.completion_tokens for r in results)
    counts: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    if cached:
        counts["prompt_tokens_details"] = {"cached_tokens": sum(r.usage.cached_tokens for r in results)}
    return counts


_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def error_body(error: PellucidError) -> dict[str, Any]:
    """OpenAI's shape of an error."""
    kind = "invalid_request_error" if error.http_status < 500 else "server_error"
    return {
        "error": {
            "message": str(error),
            "type": _TYPES.get(error.http_status, kind),
            "param": error.param if isinstance(error, InvalidParameter) else None,
            "code": error.code,
        }
    }


def finish_reason(reason: str | None, has_calls: bool) -> str | None:
    """OpenAI's name for why an answer ended."""
    return "tool_calls" if has_calls and reason == "stop" else reason


def server_receipt(result: RequestOutput) -> dict[str, Any]:
    """How an answer came about, for who asked for it: with times, and without the folder that the model lies in."""
    prompt_logprobs = result.prompt_logprobs
    return {
        **asdict(result.receipt),
        "model": PurePath(result.receipt.model).name,
        "prompt_token_ids": result.prompt_token_ids,
        "prompt_logprobs": prompt_logprobs and [None if p is None else _plain(p) for p in prompt_logprobs],
        "outputs": [{"index": o.index, "token_ids": o.token_ids} for o in result.outputs],
        "metrics": asdict(result.metrics),
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


def top_logprobs(receipt: Receipt) -> int:
    """How many of the most likely tokens were asked for at each position."""
    top = receipt.sampling_params["logprobs"]
    return top if isinstance(top, int) else 0


def _chat_choice(index: int, answer: CompletionOutput, top: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.tool_calls:
        message["content"] = answer.text or None
        message["tool_calls"] = [call.as_dict() for call in answer.tool_calls]
    if answer.reasoning is not None:
        message["reasoning_content"] = answer.reasoning
    return {
        "index": index,
        "message": message,
        "logprobs": None if answer.logprobs is None else chat_logprobs(answer.logprobs, top),
        "finish_reason": finish_reason(answer.finish_reason, bool(answer.tool_calls)),
    }


def chat_logprobs(positions: Sequence[PositionLogprobs], top: int) -> dict[str, Any]:
    return {"content": [chat_position(position, top) for position in positions], "refusal": None}


def chat_position(position: PositionLogprobs, top: int) -> dict[str, Any]:
    chosen = next(iter(position.values()))  # whether it is among the best or not
    best = sorted((e for e in position.values() if e.rank <= top), key=lambda e: e.rank)
    return _token(chosen) | {"top_logprobs": [_token(e) for e in best]}


def _token(entry: Logprob) -> dict[str, Any]:
    text = entry.decoded_token
    return {"token": text, "logprob": entry.logprob, "bytes": list(text.encode("utf-8", "replace"))}


def _text_choice(index: int, answer: CompletionOutput, top: int) -> dict[str, Any]:
    logprobs = None if answer.logprobs is None else text_logprobs(answer.logprobs, top)
    return {"index": index, "text": answer.text, "logprobs": logprobs, "finish_reason": answer.finish_reason}


def with_prompt(logprobs: dict[str, Any], result: RequestOutput, first: str, text: str) -> dict[str, Any]:
    """A completion's `logprobs`, preceded by those of its prompt, of which `first` is the first token: it has none.

    `text` has both.
    """
    top = top_logprobs(result.receipt)
    before = text_logprobs([position for position in result.prompt_logprobs or [] if position is not None], top)
    tokens = [first, *before["tokens"], *logprobs["tokens"]]
    return {
        "tokens": tokens,
        "token_logprobs": [None, *before["token_logprobs"], *logprobs["token_logprobs"]],
        "top_logprobs": [None, *before["top_logprobs"], *logprobs["top_logprobs"]] if top else None,
        "text_offset": _offsets(text, tokens),
    }


def _offsets(text: str, tokens: Sequence[str]) -> list[int]:
    """Where each token begins in `text`. One that is not there (a control token, a space left out) has no length; of
    parts of characters (U+FFFD) nobody knows it, so the next token is looked for a few characters on."""
    offsets, at, unknown = [], 0, 0
    for token in tokens:
        found = text.find(token, at, at + unknown + len(token))
        offsets.append(at if found < 0 else found)
        if found >= 0:
            at, unknown = found + len(token), 0
        elif "\ufffd" in token:
            unknown += len(token)
    return offsets


def text_logprobs(positions: Sequence[PositionLogprobs], top: int, offset: int = 0) -> dict[str, Any]:
    """`offset`: characters of the answer before the first of these positions."""
    chosen = [next(iter(position.values())) for position in positions]
    offsets = [offset]
    for entry in chosen:
        offsets.append(offsets[-1] + len(entry.decoded_token))
    return {
        "tokens": [e.decoded_token for e in chosen],
        "token_logprobs": [e.logprob for e in chosen],
        "top_logprobs": [{e.decoded_token: e.logprob for e in p.values()} for p in positions] if top else None,
        "text_offset": offsets[:-1],
    }
