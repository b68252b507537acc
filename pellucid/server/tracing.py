"""Spans for OpenTelemetry: of each HTTP request, of each prompt it has answered, and of an answer's time in the queue,
in prefill and in decode. Only imported where tracing is on; spans are made in the front alone, the engine knows nothing
of them.

Names follow OpenTelemetry's semantic conventions for HTTP servers and for generative AI (inference spans). What the
conventions have no name for begins with `pellucid.`. No text of prompts or answers is in a span unless asked for.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from time import time_ns
from types import TracebackType
from typing import Any, Self

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import Scope

from pellucid import __version__
from pellucid.engine.outputs import RequestOutput
from pellucid.errors import PellucidError
from pellucid.sampling import SamplingParams
from pellucid.server.messages import GenerateRequest

CLOSE_TIME = 2.0  # seconds to send what is left
_METHODS = frozenset({"GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT"})
_SAMPLING = ("max_tokens", "temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty", "seed")
_MAX_INTEGER = 2**63 - 1  # of an attribute

Attributes = dict[str, Any]


def otlp_provider(endpoint: str | None) -> TracerProvider:
    """Sends to `endpoint`, the base of an OTLP/HTTP receiver; without it, to where the OTEL_* variables say.

    Everything else (service name, headers, sampler, limits, batches) is read from them by OpenTelemetry's SDK.
    """
    resource = Resource.create({"service.version": __version__})
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "pellucid"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    url = None if endpoint is None else f"{endpoint.rstrip('/').removesuffix('/v1/traces')}/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
    return provider


class Tracing:
    """One server's spans. `with_text`: they have what users write and what they are answered."""

    def __init__(self, provider: TracerProvider, *, with_text: bool = False) -> None:
        self._provider = provider
        self._propagator = TraceContextTextMapPropagator()
        self.tracer = provider.get_tracer("pellucid", __version__)
        self.with_text = with_text

    def request(self, scope: Scope, request_id: str) -> RequestTrace:
        """A request has come. It continues its client's trace where it has a sound `traceparent` header."""
        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in (b"traceparent", b"tracestate")
        }
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        attributes = {
            "http.request.method": method,
            "url.path": scope["path"].encode("utf-8", "replace").decode(),
            "url.scheme": scope["scheme"],
            "pellucid.request_id": request_id,
        }
        span = self.tracer.start_span(method, self._propagator.extract(carrier), SpanKind.SERVER, attributes=attributes)
        return RequestTrace(self, span, method)

    def close(self) -> None:
        """Send what is left, for CLOSE_TIME at most: a receiver that does not answer holds up nobody."""
        closing = threading.Thread(target=self._provider.shutdown, name="pellucid-tracing", daemon=True)
        closing.start()
        closing.join(CLOSE_TIME)


class RequestTrace:
    """The span of one HTTP request."""

    def __init__(self, tracing: Tracing, span: Span, method: str) -> None:
        self.tracing = tracing
        self.span = span
        self._method = method

    def answers(self, model: str, requests: Sequence[GenerateRequest]) -> AnswerTrace:
        """`model` has begun to answer `requests`."""
        return AnswerTrace(self, model, requests)

    def end(self, route: str | None, status: int) -> None:
        """`status` is 0 where there was no answer: the client had gone."""
        if route is not None:
            self.span.update_name(f"{self._method} {route}")
            self.span.set_attribute("http.route", route)
        if status:
            self.span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self.span.set_attribute("error.type", str(status))
            self.span.set_status(Status(StatusCode.ERROR))
        self.span.end()


class AnswerTrace:
    """The spans of what one HTTP request has answered, one for each prompt.

    A context: what has not been answered when an error ends it has failed.
    """

    def __init__(self, parent: RequestTrace, model: str, requests: Sequence[GenerateRequest]) -> None:
        self._parent = parent
        self._model = model
        self._requests = requests
        self._begun = time_ns()
        self._left = set(range(len(requests)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            return
        name = "cancelled"  # nobody waits for it any more
        if isinstance(error, Exception):
            name = error.code if isinstance(error, PellucidError) else type(error).__name__
        for i in self._left:
            span = self._start(i)
            span.set_attribute("error.type", name)
            span.set_status(Status(StatusCode.ERROR))
            span.end()

    def answered(self, i: int, result: RequestOutput) -> None:
        """Prompt `i` has been answered just now; its times are counted back from here."""
        now, times, usage = time_ns(), result.metrics, result.usage
        self._left.discard(i)
        arrived = max(self._begun, now - _nanoseconds(times.total_time))
        span = self._start(i)
        span.set_attributes(
            {
                "gen_ai.response.model": self._model,
                "gen_ai.response.finish_reasons": [output.finish_reason for output in result.outputs],
                "gen_ai.usage.input_tokens": usage.prompt_tokens,
                "gen_ai.usage.output_tokens": usage.completion_tokens,
                "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
                "pellucid.quantization": result.receipt.quantization,
                "pellucid.num_preemptions": times.num_preemptions,
            }
        )
        if self._parent.tracing.with_text:
            answers = [_message("assistant", output.text) for output in result.outputs]
            span.set_attribute("gen_ai.output.messages", json.dumps(answers))
        computed = min(arrived + _nanoseconds(times.queue_time), now)
        self._phase(span, "queue", arrived, computed)
        if times.time_to_first_token is not None:
            first = min(max(computed, arrived + _nanoseconds(times.time_to_first_token)), now)
            self._phase(span, "prefill", computed, first)
            self._phase(span, "decode", first, now)
        span.end(now)

    def _start(self, i: int) -> Span:
        request = self._requests[i]
        operation = "text_completion" if request.messages is None else "chat"
        attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "pellucid",
            "gen_ai.request.model": self._model,
            **_sampling(request.params),
        }
        if self._parent.tracing.with_text:
            given = [_message("user", request.prompt)] if request.messages is None else _messages(request.messages)
            attributes["gen_ai.input.messages"] = json.dumps(given)
        return self._parent.tracing.tracer.start_span(
            f"{operation} {self._model}",
            set_span_in_context(self._parent.span),
            SpanKind.INTERNAL,
            attributes=attributes,
            start_time=self._begun,
        )

    def _phase(self, parent: Span, name: str, begun: int, ended: int) -> None:
        tracer = self._parent.tracing.tracer
        tracer.start_span(name, set_span_in_context(parent), start_time=begun).end(ended)


def _sampling(params: SamplingParams) -> Attributes:
    found: Attributes = {"gen_ai.request.choice.count": params.n} if params.n != 1 else {}
    for name in _SAMPLING:
        value = getattr(params, name)
        if value is not None and value <= _MAX_INTEGER:
            found[f"gen_ai.request.{name}"] = value
    return found


def _messages(given: Sequence[Any]) -> list[Attributes]:
    return [_message(message.get("role"), message.get("content")) for message in given if isinstance(message, Mapping)]


def _message(role: Any, content: Any) -> Attributes:
    """In the form of the conventions' `gen_ai.input.messages`."""
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    return {"role": role, "parts": [{"type": "text", "content": content}]}


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
