"""LLM: the Python interface. Load a model, hand it prompts, read answers."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from functools import cached_property, partial
from itertools import repeat
from numbers import Integral
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pellucid.config import EngineConfig
from pellucid.engine.chat_answers import ChatReader, chat_params
from pellucid.engine.engine import Engine
from pellucid.engine.loader import LoadedModel, load_model
from pellucid.engine.offline import Job, Refusal, answer_jobs
from pellucid.engine.outputs import RequestOutput, StreamChunk
from pellucid.engine.pooling import EmbeddingOutput, ScoreOutput, embed, similarity
from pellucid.engine.progress import ProgressBar
from pellucid.engine.reading import Reader
from pellucid.engine.readout import Pooling
from pellucid.engine.results import AnswerStream, build_result, refused_result
from pellucid.engine.stats import EngineStats
from pellucid.errors import InvalidParameter, InvalidRequest
from pellucid.fields import show
from pellucid.sampling import SamplingParams

if TYPE_CHECKING:
    from pellucid.chat.tools import ToolChoice
    from pellucid.chat.turn import ChatTurns, Turn
    from pellucid.engine.classify import ClassificationOutput

Prompt = str | Sequence[int]
"""Text, or token ids that are used as they are."""
Message = Mapping[str, Any]
"""One message of a conversation: {"role": "user", "content": "…"}."""
EncodedPrompt = tuple[str | None, Sequence[int]]
"""The text as the model sees it (None for token ids) and its ids."""
_P = TypeVar("_P")


class LLM:
    """A model in memory. `LLM(model, **settings)` takes the fields of `EngineConfig`.

    Threads may share one LLM: their requests are computed together. Closing it (or leaving its `with` block) frees
    weights, KV cache and threads; requests still running end with finish_reason "abort".
    """

    def __init__(self, model: str, **settings: Any) -> None:
        """Raises ModelError when the model cannot be found, read or built; ResourceError; InvalidParameter."""
        self.config = EngineConfig(model=str(model), **settings)
        self._model: LoadedModel = load_model(self.config)
        self.tokenizer = self._model.tokenizer
        self._engine = Engine(
            self._model.program,
            self.tokenizer,
            self.config,
            vocab_size=self._model.config.vocab_size,
            max_model_len=self._model.max_model_len,
        )
        self._lock = threading.Lock()
        self._closed = False

    @property
    def max_model_len(self) -> int:
        """Most tokens of prompt and answer together."""
        return self._model.max_model_len

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: bool | None = None,
    ) -> list[RequestOutput]:
        """Answer all prompts, many at a time; results come in the order of the prompts.

        `params` is one for all, or one for each prompt. Text is tokenised with the model's begin token, and control
        tokens written in it are plain text; for another treatment, pass `tokenize(…)`'s ids. A request that fails on
        its own has finish_reason "error" and the others are answered. `progress` shows a bar on stderr; None shows it
        for several prompts on a terminal.

        Raises InvalidRequest (and starts nothing) when one of the requests cannot be served.
        """
        return self._run(_prompt_list(prompts), params, self._prompt, progress)

    def as_completed(
        self,
        prompts: Iterable[Prompt],
        params: SamplingParams | Iterable[SamplingParams] | None = None,
        *,
        progress: bool | None = None,
    ) -> Iterator[tuple[int, RequestOutput]]:
        """Answer any number of prompts; yields (place among the prompts, result) as answers are complete.

        Memory stays bounded: a prompt is taken from `prompts`, which may be a generator, when its turn is near, and a
        result is forgotten when it has been yielded. `params` is one for all, or one for each prompt. A request that
        cannot be served, or fails, has finish_reason "error" and the others are answered. Leaving the loop ends the
        rest.
        """
        if isinstance(prompts, str | bytes | Mapping) or not isinstance(prompts, Iterable):
            raise InvalidParameter("prompts", f"expected prompts one after the other, got {show(prompts)}")
        total = len(prompts) if isinstance(prompts, Sized) else None
        return self._completed(_jobs(prompts, params, self._prompt), total, progress)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
        tool_parser: str | None = None,
        tool_prompt: bool | None = None,
        reasoning_parser: str | None = None,
        add_generation_prompt: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        progress: bool | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation, or several, through the model's chat template.

        tools: functions in OpenAI's form, which the template shows the model; results then have `tool_calls`.
        tool_choice: "auto", or "none": the model does not see the tools.
        parallel_tool_calls: one answer may hold several calls; without, text that looks like a second one is text.
        tool_parser: how the model writes calls; None chooses by its template.
        tool_prompt: describe tools in a system message; None does so where the template has no place for them.
        reasoning_parser: how reasoning is marked; None chooses by the template, "none" leaves it in the text.
        chat_template_kwargs: variables for the template, such as enable_thinking.

        Raises TemplateError, InvalidRequest if no form of calls is known for the template, and what `generate` raises.
        """
        from pellucid.chat.turn import ChatOptions

        options = ChatOptions(
            tools=tools,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
            tool_parser=tool_parser,
            tool_prompt=tool_prompt,
            reasoning_parser=reasoning_parser,
            add_generation_prompt=add_generation_prompt,
            chat_template_kwargs=chat_template_kwargs,
        )
        several = isinstance(messages, Sequence) and len(messages) > 0 and isinstance(messages[0], list | tuple)
        conversations: Sequence[Any] = messages if several else [messages]
        turns = [self._turns.turn(conversation, options) for conversation in conversations]
        each = [chat_params(p, t) for p, t in zip(self._params_of(len(turns), params), turns, strict=True)]
        results = self._run(turns, each, lambda turn: (turn.prompt, turn.token_ids), progress)
        return [ChatReader(turn).result(result) for result, turn in zip(results, turns, strict=True)]

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[StreamChunk]:
        """Answer one prompt piece by piece. The first piece asked for queues it; leaving the loop early ends it.

        Raises InvalidRequest at once when it cannot be served.
        """
        return self._stream(self._prompt(prompt), params)

    def stream_chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
        tool_parser: str | None = None,
        tool_prompt: bool | None = None,
        reasoning_parser: str | None = None,
        add_generation_prompt: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> Iterator[StreamChunk]:
        """Answer one conversation piece by piece; the arguments are those of `chat`."""
        from pellucid.chat.turn import ChatOptions

        options = ChatOptions(
            tools=tools,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
            tool_parser=tool_parser,
            tool_prompt=tool_prompt,
            reasoning_parser=reasoning_parser,
            add_generation_prompt=add_generation_prompt,
            chat_template_kwargs=chat_template_kwargs,
        )
        turn = self._turns.turn(messages, options)
        [checked] = self._params_of(1, params if params is None else [params])
        return self._stream((turn.prompt, turn.token_ids), chat_params(checked, turn), turn)

    def embed(
        self,
        texts: Prompt | Sequence[Prompt],
        *,
        pooling: Pooling = "mean",
        normalize: bool = True,
        dimensions: int | None = None,
    ) -> list[EmbeddingOutput]:
        """One vector for each text, made from the model's hidden states after the final norm.

        `pooling`: their mean, the last token's, or the first token's ("cls": of little use in a model whose tokens see
        only what is before them). `dimensions` keeps the first ones; what is left is normalised if `normalize` says so.

        Raises InvalidRequest (and starts nothing) when a text is empty or longer than the context: none is ever cut.
        """
        return self._embed(self._reader(), texts, pooling=pooling, normalize=normalize, dimensions=dimensions)

    def score(
        self, query: Prompt, documents: Prompt | Sequence[Prompt], *, pooling: Pooling = "mean"
    ) -> list[ScoreOutput]:
        """How alike `query` is to each document: the cosine similarity of their embeddings.

        Results come in the order of the documents. Raises what `embed` raises.
        """
        return self._score(self._reader(), query, documents, pooling=pooling)

    def classify(
        self,
        texts: str | Sequence[str],
        labels: Sequence[str],
        *,
        template: str | None = None,
        calibrate: bool | Sequence[str] = True,
        explain: bool = False,
    ) -> list[ClassificationOutput]:
        """The most likely of `labels` for each text, with probabilities from the model's own likelihoods.

        `template` makes the prompt that a label follows after a space; None is "Text: {text}\\nCategory:". `calibrate`
        takes away what the model says of texts without content: True for a few of them, or a list of your own.
        `explain` adds what each sentence contributed, at the price of reading the text once more for each.

        Raises InvalidRequest (and starts nothing) for labels that cannot be told apart and a text that does not fit.
        """
        return self._classify(self._reader(), texts, labels, template=template, calibrate=calibrate, explain=explain)

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of `text`: with the model's begin token, and with control tokens read as such, if wanted."""
        return self.tokenizer.encode(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return self.tokenizer.decode(list(token_ids), skip_special=skip_special_tokens)

    def stats(self) -> EngineStats:
        """How the engine is getting on, between two steps."""
        with self._lock:
            return self._engine.stats()

    def close(self) -> None:
        """Free everything. Further calls raise InvalidRequest; closing twice is fine."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._engine.abort(list(self._engine.scheduler))
                self._model.program.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _reader(self) -> Reader:
        with self._lock:
            self._require_open()

        def drive(turn: Callable[[], None]) -> None:
            with self._lock:
                turn()
                self._engine.step()

        return Reader(self._engine, drive, max_queued=2 * self.config.max_num_seqs)

    # What reads texts, for LLM and AsyncLLM: each has its own way to drive the engine.

    def _embed(
        self,
        reader: Reader,
        texts: Prompt | Sequence[Prompt],
        *,
        pooling: Pooling = "mean",
        normalize: bool = True,
        dimensions: int | None = None,
    ) -> list[EmbeddingOutput]:
        prompts = [self._prompt(text) for text in _prompt_list(texts)]
        return embed(reader, self._model, prompts, pooling=pooling, normalize=normalize, dimensions=dimensions)

    def _score(
        self, reader: Reader, query: Prompt, documents: Prompt | Sequence[Prompt], *, pooling: Pooling = "mean"
    ) -> list[ScoreOutput]:
        first, *others = self._embed(reader, [query, *_prompt_list(documents)], pooling=pooling)
        return [similarity(first, other) for other in others]

    def _classify(
        self,
        reader: Reader,
        texts: str | Sequence[str],
        labels: Sequence[str],
        *,
        template: str | None = None,
        calibrate: bool | Sequence[str] = True,
        explain: bool = False,
    ) -> list[ClassificationOutput]:
        from pellucid.engine.classify import classify

        several = [texts] if isinstance(texts, str) or not isinstance(texts, Sequence) else texts
        options: dict[str, Any] = {"template": template, "calibrate": calibrate, "explain": explain}
        return classify(reader, self._model, several, labels, **options)

    def _prompt(self, prompt: Prompt) -> EncodedPrompt:
        if isinstance(prompt, str):
            return prompt, self.tokenize(prompt)
        if isinstance(prompt, bytes | Mapping) or not isinstance(prompt, Iterable):
            raise InvalidParameter("prompt", f"expected text or a list of token ids, got {show(prompt)}")
        return None, list(prompt)

    @cached_property
    def _turns(self) -> ChatTurns:
        template = self._model.chat_template
        if template is None:
            raise InvalidRequest(
                "this model has no chat template; use generate(), or load it with LLM(…, chat_template=…)"
            )
        from pellucid.chat.turn import ChatTurns

        return ChatTurns(template, self.tokenizer)

    @staticmethod
    def _params_of(
        num_prompts: int, params: SamplingParams | Sequence[SamplingParams] | None
    ) -> Sequence[SamplingParams]:
        """One for each prompt."""
        if params is None or isinstance(params, SamplingParams):
            params = [params or SamplingParams()] * num_prompts
        for p in params:
            if not isinstance(p, SamplingParams):
                raise InvalidParameter("params", f"expected SamplingParams, got {show(p)}")
        if len(params) != num_prompts:
            raise InvalidParameter(
                "params", f"got {len(params)} for {num_prompts} prompts; give one for all or one for each"
            )
        return params

    def _run(
        self,
        prompts: Sequence[_P],
        params: SamplingParams | Sequence[SamplingParams] | None,
        encode: Callable[[_P], EncodedPrompt],
        progress: bool | None,
    ) -> list[RequestOutput]:
        """The results in order. Each prompt is checked before the first one starts, and waits as 4 bytes a token."""
        jobs = []
        for i, (prompt, p) in enumerate(zip(prompts, self._params_of(len(prompts), params), strict=True)):
            text, token_ids = encode(prompt)
            self._engine.compile(p)
            with self._lock:
                self._require_open()
                checked = array("i", self._engine.validate(token_ids, p))
            jobs.append(Job(i, partial(_pair, text, checked), p))
        show_bar = progress if len(jobs) > 1 or progress is not None else False
        results = dict(self._completed(jobs, len(jobs), show_bar))
        return [results[i] for i in range(len(jobs))]

    def _completed(
        self, jobs: Iterable[Job[int]], total: int | None, progress: bool | None
    ) -> Iterator[tuple[int, RequestOutput]]:
        with self._lock:
            self._require_open()
        most = 2 * self.config.max_num_seqs  # what runs, and as much to take its place
        with ProgressBar(total, show=progress) as bar:
            for done in answer_jobs(self._engine, self._lock, jobs, max_queued=most):
                if isinstance(done, Refusal):
                    result = refused_result(self._model, done.params, done.error)
                else:
                    result = build_result(self._model, done.prompt, done.requests)
                bar.advance(result.usage.completion_tokens)
                yield done.key, result

    def _stream(
        self, prompt: EncodedPrompt, params: SamplingParams | None, turn: Turn | None = None
    ) -> Iterator[StreamChunk]:
        # Checked here, so that a request that cannot be served fails at the call; queued by the first next(), so that a
        # stream nobody reads leaves nothing behind: a generator that never began runs no `finally`.
        [checked] = self._params_of(1, params if params is None else [params])
        self._engine.compile(checked)
        with self._lock:
            self._require_open()
            self._engine.validate(prompt[1], checked)
        return self._chunks(prompt, checked, ChatReader(turn))

    def _chunks(self, prompt: EncodedPrompt, params: SamplingParams, reader: ChatReader) -> Iterator[StreamChunk]:
        text, token_ids = prompt
        with self._lock:
            self._require_open()
            requests = self._engine.add_request(token_ids, params)
        streams = {request: AnswerStream(request) for request in requests}
        try:
            while unfinished := {request: s for request, s in streams.items() if not s.ended}:
                with self._lock:
                    self._engine.step()
                    for stream in unfinished.values():
                        stream.publish()
                for request, stream in unfinished.items():
                    chunk = stream.next_chunk()
                    if chunk is None:
                        continue
                    chunk = reader.chunk(chunk, request)
                    if all(s.ended for s in streams.values()):
                        chunk = replace(chunk, result=reader.result(build_result(self._model, text, requests)))
                    yield chunk
        finally:
            with self._lock:
                self._engine.abort(requests)

    def _require_open(self) -> None:
        if self._closed:
            raise InvalidRequest("this LLM is closed")


def _prompt_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """A single text or a single list of token ids counts as one prompt."""
    if isinstance(prompts, str | bytes | Mapping) or not isinstance(prompts, Iterable):
        return [prompts]  # what is not text is refused where it is encoded
    items = list(prompts)
    if items and isinstance(items[0], Integral):
        return [items]  # type: ignore[list-item]
    return items  # type: ignore[return-value]


def _jobs(
    prompts: Iterable[_P],
    params: SamplingParams | Iterable[SamplingParams] | None,
    encode: Callable[[_P], EncodedPrompt],
) -> Iterator[Job[int]]:
    """A job for each prompt as it is asked for."""
    one = params is None or isinstance(params, SamplingParams)
    if not one and not isinstance(params, Iterable):
        raise InvalidParameter("params", f"expected SamplingParams, one or one for each prompt, got {show(params)}")
    each: Iterator[Any] = repeat(params or SamplingParams()) if one else iter(params)  # type: ignore[arg-type]
    for i, prompt in enumerate(prompts):
        p = next(each, None)
        if not isinstance(p, SamplingParams):
            raise InvalidParameter("params", f"expected SamplingParams for prompt {i}, got {show(p)}")
        yield Job(i, partial(encode, prompt), p)
    if not one and (extra := next(each, None)) is not None:
        raise InvalidParameter("params", f"there are more than prompts: {show(extra)} has none")


def _pair(text: str | None, token_ids: Sequence[int]) -> EncodedPrompt:
    return text, token_ids
