"""What a request gives back: text, tokens, log-probabilities, and an account of how they came about."""

from __future__ import annotations

from dataclasses import dataclass, field

from pellucid.chat.calls import ToolCall, ToolCallDelta


@dataclass(frozen=True)
class Logprob:
    """Log-probability of a token (natural logarithm), its rank (1: the most likely), and its text on its own."""

    logprob: float
    rank: int
    decoded_token: str


PositionLogprobs = dict[int, Logprob]
"""Token id → Logprob at one position: the token that is there first, then the most likely ones in order."""


@dataclass(frozen=True)
class Usage:
    """Tokens of the prompt (counted once), of all answers, of both, and those of the prompt found in the cache."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class Metrics:
    """Times in seconds, rates in tokens a second; None where there is nothing to divide.

    `time_to_first_token` counts from the call, `queue_time` up to the first step. `prefill_tokens_per_second` covers
    the prompt up to the first token, `decode_tokens_per_second` the tokens after the first; with several requests at
    once both are this request's share.
    """

    queue_time: float
    time_to_first_token: float | None
    total_time: float
    prefill_tokens_per_second: float | None
    decode_tokens_per_second: float | None
    num_preemptions: int


@dataclass(frozen=True)
class ModelReceipt:
    """Which model computed something, and how. `quantization` is the label of the weights' storage ("Q4_K_M", …)."""

    version: str
    model: str
    architecture: str
    quantization: str
    executor: str
    isa: str
    threads: int
    kv_cache_dtype: str
    activations: str
    max_model_len: int


@dataclass(frozen=True)
class Receipt(ModelReceipt):
    """What produced this answer, enough to produce it again.

    `prompt` is the text as the model saw it (None for a prompt of token ids), `sampling_params` the effective ones with
    the seed that was used.
    """

    prompt: str | None
    sampling_params: dict[str, object]
    seed: int
    cached_tokens: int


@dataclass(frozen=True)
class CompletionOutput:
    """One answer. `finish_reason` is "stop", "length", "abort" or "error".

    `stop_reason` is the stop string, expression or id of stop_token_ids that ended it, None for the model's end token.
    `token_ids` include the token that ended the answer, `text` does not. `error` says what went wrong, `error_param`
    which field asked for what could not be done (None: the request is not at fault).
    In answers of a chat, `tool_calls` are the calls that the model asks for and `reasoning` is what it thought first
    (None if its template marks no reasoning, or there is none); `text` is the rest.
    """

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[PositionLogprobs] | None
    finish_reason: str
    stop_reason: int | str | None = None
    error: str | None = None
    error_param: str | None = None
    tool_calls: list[ToolCall] = field(default_factory=list)
    reasoning: str | None = None

    @property
    def message(self) -> dict[str, object]:
        """The answer as a message, to go on with the conversation."""
        message: dict[str, object] = {"role": "assistant", "content": self.text}
        if self.reasoning is not None:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [call.as_dict() for call in self.tool_calls]
        return message


@dataclass(frozen=True)
class RequestOutput:
    """The finished result of one prompt; `outputs` has one answer for each of `n`.

    `prompt_logprobs` is None unless asked for; its first entry is None, since nothing comes before the first token.
    `text`, `token_ids`, `logprobs`, `finish_reason`, `tool_calls` and `reasoning` are those of the first answer.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[PositionLogprobs | None] | None
    outputs: list[CompletionOutput]
    usage: Usage
    metrics: Metrics
    receipt: Receipt

    @property
    def text(self) -> str:
        return self.outputs[0].text

    @property
    def token_ids(self) -> list[int]:
        return self.outputs[0].token_ids

    @property
    def logprobs(self) -> list[PositionLogprobs] | None:
        return self.outputs[0].logprobs

    @property
    def finish_reason(self) -> str:
        return self.outputs[0].finish_reason

    @property
    def tool_calls(self) -> list[ToolCall]:
        return self.outputs[0].tool_calls

    @property
    def reasoning(self) -> str | None:
        return self.outputs[0].reasoning


@dataclass(frozen=True)
class StreamChunk:
    """What is new in answer `index`: the text that became certain, and the tokens since the last chunk.

    `reasoning` and `tool_calls` are new pieces of those; see CompletionOutput.

    The last chunk of an answer has a `finish_reason`; the last one of a stream also has `result`, the whole.
    """

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    error: str | None = None
    error_param: str | None = None
    reasoning: str = ""
    tool_calls: list[ToolCallDelta] = field(default_factory=list)
    result: RequestOutput | None = None
