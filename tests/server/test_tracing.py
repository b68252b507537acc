"""Spans: one for the request, one for each prompt with the names of the conventions, one for each phase."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from support.http_client import CHAT, COMPLETIONS, HELLO, Http
from support.scripted_client import ScriptedClient
from support.server import Server

from pellucid.config import traces_wanted
from pellucid.errors import InvalidParameter
from pellucid.server.settings import ServerSettings
from pellucid.server.tracing import Tracing

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Traced(Http):
    def __init__(self, *, with_text: bool = False, **settings: Any) -> None:
        super().__init__(ScriptedClient(), **settings)
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.state.tracing = Tracing(provider, with_text=with_text)

    def spans(self) -> dict[str, ReadableSpan]:
        found = self.exporter.get_finished_spans()
        self.exporter.clear()
        return {span.name: span for span in found}


@pytest.fixture
def http() -> Iterator[Traced]:
    with Traced() as client:
        yield client


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_a_chat_has_a_span_for_each_phase(http: Traced) -> None:
    answer = http.post(
        CHAT,
        json={"messages": HELLO, "temperature": 0.5, "max_tokens": 9, "top_k": 4, "seed": 2**64 - 1},
        headers={"traceparent": f"00-{TRACE}-{PARENT}-01"},
    )
    spans = http.spans()
    assert sorted(spans) == sorted([f"POST {CHAT}", "chat m", "queue", "prefill", "decode"])
    request, chat = spans[f"POST {CHAT}"], spans["chat m"]
    assert request.kind == SpanKind.SERVER
    assert attributes(request) == {
        "http.request.method": "POST",
        "url.path": CHAT,
        "url.scheme": "http",
        "http.route": CHAT,
        "http.response.status_code": 200,
        "pellucid.request_id": answer.headers["x-request-id"],
    }
    assert attributes(chat) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "pellucid",
        "gen_ai.request.model": "m",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.top_k": 4,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.presence_penalty": 0.0,
        "gen_ai.request.frequency_penalty": 0.0,
        "gen_ai.response.model": "m",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.usage.cache_read.input_tokens": 2,
        "pellucid.quantization": "Q4_1",
        "pellucid.num_preemptions": 0,
    }
    page = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text("utf-8")
    for name in attributes(request) | attributes(chat):
        assert f"`{name}`" in page or f"`.{name.split('.', 2)[2]}`" in page, f"docs/operations.md does not name {name}"
    assert request.context is not None
    assert request.parent is not None
    assert (request.context.trace_id, request.parent.span_id) == (int(TRACE, 16), int(PARENT, 16))
    assert chat.parent is not None
    assert chat.parent.span_id == request.context.span_id
    assert chat.context is not None
    phases = [spans[name] for name in ("queue", "prefill", "decode")]
    assert {phase.parent and phase.parent.span_id for phase in phases} == {chat.context.span_id}
    assert {span.context and span.context.trace_id for span in spans.values()} == {int(TRACE, 16)}
    for before, after in pairwise(phases):
        assert before.end_time == after.start_time
    assert (chat.start_time or 0) <= (phases[0].start_time or 0) <= (phases[2].end_time or 0) == chat.end_time


@pytest.mark.parametrize("header", ["", "00-0-0-01", f"00-{'0' * 32}-{PARENT}-01", "x" * 5000, "00-\xe9-1-01"])
def test_a_malformed_parent_is_no_parent(http: Traced, header: str) -> None:
    assert http.post(CHAT, json={"messages": HELLO}, headers={"traceparent": header.encode("latin-1")}).is_success
    span = http.spans()[f"POST {CHAT}"]
    assert span.parent is None


def test_every_prompt_and_every_way_has_its_span(http: Traced) -> None:
    http.post(COMPLETIONS, json={"prompt": ["a", "b"], "n": 2})
    found = http.exporter.get_finished_spans()
    assert [span.name for span in found].count("text_completion m") == 2
    assert {attributes(s).get("gen_ai.request.choice.count") for s in found if s.name == "text_completion m"} == {2}
    http.exporter.clear()
    http.events(CHAT, messages=HELLO)
    assert {"chat m", "decode"} <= set(http.spans())
    http.post("/v1/messages", json={"messages": HELLO, "max_tokens": 4})
    assert {"POST /v1/messages", "chat m"} <= set(http.spans())
    http.get("/nowhere")
    assert set(http.spans()) == {"GET"}


def test_failures_are_told_without_their_words(http: Traced) -> None:
    def fail(request: Any, i: int) -> None:
        raise RuntimeError("secret")

    http.model.before_token = fail
    assert http.post(CHAT, json={"messages": HELLO}).status_code == 500
    spans = http.spans()
    assert set(spans) == {f"POST {CHAT}", "chat m"}
    assert attributes(spans["chat m"])["error.type"] == "RuntimeError"
    assert attributes(spans[f"POST {CHAT}"])["error.type"] == "500"
    assert all(not span.status.is_ok for span in spans.values())
    assert "secret" not in "".join(span.to_json() for span in spans.values())
    assert http.post(CHAT, json={"messages": []}).status_code == 400
    assert http.spans()[f"POST {CHAT}"].status.is_unset


def test_text_is_there_only_if_asked_for() -> None:
    body = {"messages": [{"role": "user", "content": "a secret"}], "stop": ["another"]}
    with Traced() as http:
        http.post(CHAT, json=body)
        said = "".join(span.to_json() for span in http.spans().values())
        assert "secret" not in said
        assert "another" not in said
        assert "Once upon" not in said
    with Traced(with_text=True) as http:
        http.post(CHAT, json=body)
        found = attributes(http.spans()["chat m"])
        http.post(COMPLETIONS, json={"prompt": "a secret"})
        other = attributes(http.spans()["text_completion m"])
    said = [{"role": "user", "parts": [{"type": "text", "content": "a secret"}]}]
    assert json.loads(found["gen_ai.input.messages"]) == json.loads(other["gen_ai.input.messages"]) == said
    assert json.loads(found["gen_ai.output.messages"])[0]["parts"][0]["content"] == "Once upon a time"


def test_the_variables_say_whether(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not traces_wanted()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    assert traces_wanted()
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert not traces_wanted()
    monkeypatch.delenv("OTEL_SDK_DISABLED")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(InvalidParameter, match=r"http/protobuf.*grpc"):
        traces_wanted()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    with pytest.raises(InvalidParameter, match="zipkin"):
        traces_wanted()
    with pytest.raises(InvalidParameter, match="otlp_endpoint"):
        ServerSettings(otlp_endpoint="localhost:4318")


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from pellucid.server import serve

    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.delitem(sys.modules, "pellucid.server.tracing")
    with pytest.raises(InvalidParameter, match=r"pip install 'pellucid\[otel\]'"):
        serve._tracing(ServerSettings(traces=True))
    assert serve._tracing(ServerSettings()) is None


def test_nothing_is_imported_when_it_is_off() -> None:
    script = "import sys, pellucid.server.app, pellucid.server.serve; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "opentelemetry.sdk" not in loaded
    assert "opentelemetry.exporter" not in loaded
    assert "pellucid.server.tracing" not in loaded


def test_the_framework_adds_none_of_its_own(http: Traced) -> None:
    assert isinstance(http.app, FastAPI)
    telemetry = getattr(http.app, "_native_telemetry", None)  # of newer ones
    assert telemetry is None or not telemetry.enabled()


@contextmanager
def receiver() -> Iterator[tuple[str, list[Any]]]:
    """An OTLP/HTTP receiver: its URL, and the spans that came, with the attributes of their resource."""
    received: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            message = ExportTraceServiceRequest.FromString(body)
            for resource in message.resource_spans:
                about = {a.key: a.value.string_value for a in resource.resource.attributes}
                received.extend((self.path, about, span) for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", received
        finally:
            server.shutdown()
            thread.join()


def test_a_server_sends_them(story_path: Path) -> None:
    names = ("--served-model-name", "story", "-c", "256")
    with receiver() as (url, received):
        with Server(str(story_path), *names, "--otlp-endpoint", url, OTEL_SERVICE_NAME="tales") as server:
            body = {"prompt": "Once", "max_tokens": 8, "temperature": 0}
            assert httpx.post(f"{server.url}{COMPLETIONS}", json=body).is_success
            assert server.stop() == 0
        assert {path for path, _, _ in received} == {"/v1/traces"}
        assert {about["service.name"] for _, about, _ in received} == {"tales"}
        assert {"text_completion story", "queue", "prefill", "decode"} <= {span.name for _, _, span in received}


def test_a_receiver_that_is_not_there_holds_up_nobody(story_path: Path) -> None:
    names = ("--served-model-name", "story", "-c", "256")
    with Server(str(story_path), *names, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9") as server:
        body = {"prompt": "Once", "max_tokens": 8, "temperature": 0}
        assert httpx.post(f"{server.url}{COMPLETIONS}", json=body).is_success
        begun = monotonic()
        assert server.stop() == 0
        assert monotonic() - begun < 15
