"""From Requests to what the caller sees: results, receipts and chunks of a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pellucid import __version__
from pellucid.engine.outputs import CompletionOutput, Metrics, ModelReceipt, Receipt, RequestOutput, StreamChunk, Usage
from pellucid.errors import ExecutorError, InvalidParameter, PellucidError
from pellucid.sampling import SamplingParams

if TYPE_CHECKING:
    from pellucid.engine.loader import LoadedModel
    from pellucid.engine.request import Request


def build_result(model: LoadedModel, prompt: str | None, requests: list[Request]) -> RequestOutput:
    """The result of one prompt from its finished requests, one for each of n."""
    first = requests[0]
    completion_tokens = sum(r.num_output_tokens + r.num_lost_tokens for r in requests)
    return RequestOutput(
        request_id=first.id,
        prompt=prompt,
        prompt_token_ids=first.token_ids[: first.num_prompt_tokens],
        prompt_logprobs=first.prompt_logprobs if first.params.prompt_logprobs is not None else None,
        outputs=[_completion(r) for r in requests],
        usage=Usage(
            prompt_tokens=first.num_prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=first.num_prompt_tokens + completion_tokens,
            cached_tokens=first.num_cached_tokens,
        ),
        metrics=_metrics(requests),
        receipt=_receipt(model, prompt, first.params, first.sampler.seed, first.num_cached_tokens),
    )


def refused_result(model: LoadedModel, params: SamplingParams, error: PellucidError) -> RequestOutput:
    """The result of a prompt that was not begun: finish_reason "error", and nothing else."""
    return RequestOutput(
        request_id="",
        prompt=None,
        prompt_token_ids=[],
        prompt_logprobs=None,
        outputs=[
            CompletionOutput(
                0, "", [], None, finish_reason="error", error=str(error), error_param=getattr(error, "param", None)
            )
        ],
        usage=Usage(0, 0, 0, 0),
        metrics=Metrics(0.0, None, 0.0, None, None, 0),
        receipt=_receipt(model, None, params, params.seed or 0, 0),
    )


def request_failure(error: str | None, param: str | None) -> PellucidError:
    """The `error` and `error_param` of an answer as an error to raise."""
    if param is not None:
        return InvalidParameter(param, (error or "").removeprefix(f"{param}: "))
    return ExecutorError(error or "the request failed")


class AnswerStream:
    """The part of one request that its reader has not seen yet.

    The engine and the reader may be different threads: whoever steps the engine calls `publish` between two steps, and
    `next_chunk` shows no more than was published. Pieces that were not fetched in time come as one.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._num_tokens = request.num_prompt_tokens
        self._num_chars = 0
        self._published = (self._num_tokens, 0, False)
        self.ended = False

    def publish(self) -> bool:
        """Let the reader see what the request has now. True when that is all there will be."""
        request = self._request
        ended = request.finish_reason is not None
        self._published = (request.num_tokens, len(request.text.text), ended)
        return ended

    def next_chunk(self) -> StreamChunk | None:
        """What is new since the last call; None when nothing is. After the last chunk `ended` is True."""
        request = self._request
        num_tokens, num_chars, ended = self._published
        if self.ended or (num_tokens == self._num_tokens and not ended):
            return None
        seen, self._num_tokens = self._num_tokens, num_tokens
        seen_chars, self._num_chars = self._num_chars, num_chars
        self.ended = ended
        first = request.num_prompt_tokens
        return StreamChunk(
            index=request.index,
            text=request.text.text[seen_chars:num_chars],
            token_ids=request.token_ids[seen:num_tokens],
            logprobs=request.logprobs[seen - first : num_tokens - first],
            finish_reason=request.finish_reason if ended else None,
            stop_reason=request.stop_reason if ended else None,
            error=request.error if ended else None,
            error_param=request.error_param if ended else None,
        )


def _completion(request: Request) -> CompletionOutput:
    return CompletionOutput(
        index=request.index,
        text=request.text.text,
        token_ids=request.token_ids[request.num_prompt_tokens :],
        logprobs=request.logprobs if request.params.logprobs is not None else None,
        finish_reason=request.finish_reason or "abort",
        stop_reason=request.stop_reason,
        error=request.error,
        error_param=request.error_param,
    )


def _metrics(requests: list[Request]) -> Metrics:
    times = requests[0].times
    last = max(r.times.finished for r in requests)
    later = sum(max(0, r.num_output_tokens - 1) for r in requests)  # tokens after the first of each answer
    prefill = times.first_token - times.scheduled
    decode = last - times.first_token
    return Metrics(
        queue_time=(times.scheduled or last) - times.arrived,
        time_to_first_token=times.first_token - times.arrived if times.first_token else None,
        total_time=last - times.arrived,
        prefill_tokens_per_second=requests[0].num_prompt_tokens / prefill if prefill > 0 else None,
        decode_tokens_per_second=later / decode if times.first_token and later and decode > 0 else None,
        num_preemptions=sum(r.num_preemptions for r in requests),
    )


def _receipt(
    model: LoadedModel, prompt: str | None, params: SamplingParams, seed: int, num_cached_tokens: int
) -> Receipt:
    return Receipt(
        **vars(model_receipt(model)),
        prompt=prompt,
        sampling_params={**params.as_dict(), "seed": seed},
        seed=seed,
        cached_tokens=num_cached_tokens,
    )


def model_receipt(model: LoadedModel) -> ModelReceipt:
    info = model.program.info
    return ModelReceipt(
        version=__version__,
        model=str(model.path),
        architecture=model.config.architecture,
        quantization=model.config.quantization,
        executor=info.executor,
        isa=info.isa,
        threads=info.threads,
        kv_cache_dtype=info.kv_cache_dtype,
        activations=info.activations,
        max_model_len=model.max_model_len,
    )
