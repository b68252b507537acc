"""What the front process and an engine process say to each other: MessagePack, in frames of `channel.py`.

A frame is a list of messages. Each message is an array that begins with the name of its type; what the engine's own
API returns (StreamChunk, RequestOutput) travels as it is. `call` is the number that the front gave to one call; numbers
are never used twice by one front.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import msgspec

from pellucid import errors
from pellucid.engine.outputs import ModelReceipt, RequestOutput, StreamChunk
from pellucid.errors import EngineUnavailable, InvalidParameter, PellucidError
from pellucid.sampling import SamplingParams
from pellucid.server.logs import LogFormat
from pellucid.structured_outputs import StructuredOutputs


class Message(msgspec.Struct, array_like=True, tag=True, gc=False):
    """Base of all that goes through a channel."""


# ---- what a caller asks for


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt (text or token ids), or the messages of a chat, and all that `AsyncLLM.generate` and `chat` take.

    Without `stream` nothing comes between Started and Finished. `request_id` names the request in the log and in its
    result; it is made by the server, never by its user.
    """

    prompt: str | list[int] | None = None
    messages: list[Any] | None = None
    params: Any = msgspec.field(default_factory=SamplingParams)  # a mapping of those not at their default on the wire
    form_param: str | None = None  # on the wire: what errors about the form in `params` are named after
    stream: bool = True
    request_id: str = ""
    priority: int = 0
    tenant: str = ""
    cache_salt: str = ""
    tools: list[Any] | None = None
    tool_choice: Any = "auto"
    parallel_tool_calls: bool = True
    tool_parser: str | None = None
    tool_prompt: bool | None = None
    reasoning_parser: str | None = None
    add_generation_prompt: bool = True
    chat_template_kwargs: dict[str, Any] | None = None


class RenderRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Messages of a chat, to be rendered and tokenised only."""

    messages: list[Any]
    tools: list[Any] | None = None
    tool_choice: Any = "auto"
    add_generation_prompt: bool = True
    chat_template_kwargs: dict[str, Any] | None = None


# ---- from the front to the engine


class Load(Message):
    """The first message: the keyword arguments of AsyncLLM, the seconds between two heartbeats, and how to log."""

    settings: dict[str, Any]
    heartbeat_interval: float
    log_format: LogFormat


class Generate(Message):
    call: int
    request: GenerateRequest


class Cancel(Message):
    """Nobody waits for this call any more."""

    call: int


class Tokenize(Message):
    call: int
    text: str
    add_special: bool
    parse_special: bool


class Detokenize(Message):
    call: int
    token_ids: list[int]
    skip_special_tokens: bool


class Render(Message):
    call: int
    request: RenderRequest


class Embed(Message):
    call: int
    texts: list[str | list[int]]
    options: dict[str, Any]


class Score(Message):
    call: int
    query: str | list[int]
    documents: list[str | list[int]]
    options: dict[str, Any]


class Classify(Message):
    call: int
    texts: list[str]
    labels: list[str]
    options: dict[str, Any]


Command = Load | Generate | Cancel | Tokenize | Detokenize | Render | Embed | Score | Classify


# ---- from the engine to the front


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What does not change while a model is loaded."""

    receipt: ModelReceipt
    vocab_size: int  # width of the logits
    hidden_size: int
    has_chat_template: bool
    max_num_seqs: int
    max_num_batched_tokens: int
    num_blocks: int  # of all groups
    block_size: int  # tokens
    load_seconds: float

    @property
    def max_model_len(self) -> int:
        return self.receipt.max_model_len

    @property
    def quantization(self) -> str:
        return self.receipt.quantization


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine is getting on. `num_running` and the blocks are of now; what ends in _total counts from the start.

    `seconds_without_step` is how long there has been work and no step has ended; 0 with nothing to do.
    """

    num_running: int = 0
    num_waiting: int = 0
    seconds_without_step: float = 0.0
    kv_cache_usage: float = 0.0  # share of the blocks that belong to a request, 0 to 1
    blocks_free: int = 0
    blocks_used: int = 0
    blocks_cached: int = 0  # in nobody's use, but a prompt may still find them
    steps_total: int = 0
    prompt_tokens_total: int = 0
    generation_tokens_total: int = 0
    preemptions_total: int = 0
    prefix_cache_queries_total: int = 0  # tokens looked up
    prefix_cache_hits_total: int = 0  # and found
    drafted_tokens_total: int = 0
    accepted_tokens_total: int = 0

    def after(self, earlier: Stats) -> Stats:
        """These, counted on from those of an engine that is gone."""
        totals = {
            name: getattr(self, name) + getattr(earlier, name)
            for name in self.__struct_fields__
            if name.endswith("_total")
        }
        return msgspec.structs.replace(self, **totals)


class Ready(Message):
    info: ModelInfo


class Heartbeat(Message):
    stats: Stats


class Started(Message):
    """The first token of an answer is there: the prompt's tokens, and how many of them were in the prefix cache."""

    call: int
    prompt_tokens: int
    cached_tokens: int


class Chunk(Message):
    call: int
    chunk: StreamChunk


class Finished(Message):
    """The end of a Generate: everything, whatever was streamed before."""

    call: int
    result: RequestOutput


class Tokens(Message):
    call: int
    token_ids: list[int]


class Text(Message):
    call: int
    text: str


class Rendered(Message):
    call: int
    prompt: str
    token_ids: list[int]


class Embedding(msgspec.Struct, array_like=True, frozen=True):
    """`data` is a vector of 32-bit floats in little-endian order; `num_tokens` what the model read for it."""

    data: bytes
    num_tokens: int

    def floats(self) -> list[float]:
        values = array("f", self.data)
        if sys.byteorder == "big":
            values.byteswap()
        return values.tolist()


class Embeddings(Message):
    call: int
    items: list[Embedding]


class Similarity(msgspec.Struct, array_like=True, frozen=True):
    score: float
    num_tokens: int


class Scores(Message):
    call: int
    items: list[Similarity]


class Classification(msgspec.Struct, array_like=True, frozen=True):
    """One text's: see ClassificationOutput. `sentences` are (text, contribution)."""

    label: str
    probabilities: dict[str, float]
    num_tokens: int
    sentences: list[tuple[str, float]] | None


class Classifications(Message):
    call: int
    items: list[Classification]


class Failed(Message):
    """Call `call` cannot be answered; call 0: the model cannot be loaded. `kind` names a class of errors.py."""

    call: int
    kind: str
    message: str
    param: str | None = None


Event = (
    Ready | Heartbeat | Started | Chunk | Finished | Tokens | Text | Rendered | Embeddings | Scores | Classifications
    | Failed
)  # fmt: skip
Answer = Started | Chunk | Finished | Tokens | Text | Rendered | Embeddings | Scores | Classifications | Failed
"""Those that belong to a call."""

LOADING = 0
"""The call that Failed names when there is none."""


def _tree(root: type[PellucidError]) -> dict[str, type[PellucidError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


_ERRORS = {name: kind for name, kind in _tree(PellucidError).items() if kind.__module__ == errors.__name__}
_DEFAULTS = {field.name: getattr(SamplingParams(), field.name) for field in fields(SamplingParams)}


def failed(call: int, error: PellucidError) -> Failed:
    """`error` as a message. A class that the other side does not know goes as the nearest one it knows."""
    kind = next(base.__name__ for base in type(error).__mro__ if base.__name__ in _ERRORS)
    return Failed(call, kind, str(error), getattr(error, "param", None))


def raised(failure: Failed) -> PellucidError:
    """The error that became this message."""
    kind = _ERRORS.get(failure.kind, PellucidError)
    if issubclass(kind, InvalidParameter):
        param = failure.param or ""
        return kind(param, failure.message.removeprefix(f"{param}: "))
    if issubclass(kind, EngineUnavailable):
        return kind(failure.message)
    return kind(failure.message)


def on_the_wire(request: GenerateRequest) -> GenerateRequest:
    """With the parameters as a mapping of those that differ from their defaults."""
    params: SamplingParams = request.params
    given = {name: value for name, value in vars(params).items() if value != _DEFAULTS[name]}
    form = params.structured_outputs
    if not isinstance(form, StructuredOutputs):
        return msgspec.structs.replace(request, params=given)
    given["structured_outputs"] = asdict(form)
    return msgspec.structs.replace(request, params=given, form_param=form.param)


def params_of(request: GenerateRequest) -> SamplingParams:
    """Those of a request that came over the wire. Raises what SamplingParams raises."""
    params = SamplingParams(**request.params)
    form = params.structured_outputs
    if isinstance(form, StructuredOutputs) and request.form_param is not None:
        params = replace(params, structured_outputs=form.asked_by(request.form_param))
    return params


def plain_texts(texts: Sequence[Any]) -> list[Any]:
    """Texts and lists of token ids as lists of their own."""
    return [text if isinstance(text, str) else list(text) for text in texts]


def plain_mapping(mapping: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if mapping is None else dict(mapping)
