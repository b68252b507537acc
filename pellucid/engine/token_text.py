"""What a chosen token means: its text, its log-probability for people, and whether the answer ends with it."""

from __future__ import annotations

from collections.abc import Iterable

from pellucid.engine.outputs import Logprob, PositionLogprobs
from pellucid.engine.request import FinishReason, Request
from pellucid.engine.sampler import RankedToken
from pellucid.errors import InvalidParameter
from pellucid.text.tokenizer import Tokenizer


def add_text(request: Request, token: int, tokenizer: Tokenizer) -> FinishReason | None:
    """Add the text of `token`, its last one, to the answer; why it ends, if the token, the text or the length say so.

    Sets `stop_reason`.
    """
    params, text = request.params, request.text
    may_stop = request.num_output_tokens >= params.min_tokens
    is_end = token in tokenizer.eos_token_ids and not params.ignore_eos
    if (is_end or token in params.stop_token_ids) and may_stop:
        if params.include_stop_str_in_output and has_text(token, tokenizer):
            text.add(token, may_stop=False)
        text.finish()
        request.stop_reason = None if is_end else token
        return "stop"
    if has_text(token, tokenizer) and (stop := text.add(token, may_stop=may_stop)) is not None:
        request.stop_reason = stop
        return "stop"
    if request.sampler.constraint is not None and request.sampler.constraint.is_finished:
        text.finish()
        return "stop"
    if request.num_tokens >= request.max_num_tokens:
        text.finish()
        return "length"
    return None


def position_logprobs(ranked: Iterable[RankedToken], tokenizer: Tokenizer) -> PositionLogprobs:
    return {
        r.token_id: Logprob(
            r.logprob, r.rank, tokenizer.token_str(r.token_id) if has_text(r.token_id, tokenizer) else ""
        )
        for r in ranked
    }


def has_text(token: int, tokenizer: Tokenizer) -> bool:
    """False for ids that only pad the logits, beyond the vocabulary or in holes of it."""
    try:
        tokenizer.token_bytes(token)
    except InvalidParameter:
        return False
    return True
