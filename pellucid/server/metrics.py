"""/metrics: what the front counts itself, and what the engines say in their heartbeats, in Prometheus's text format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pellucid.engine.outputs import RequestOutput

if TYPE_CHECKING:
    from pellucid.server.messages import Stats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2.5)

# name → (what it is, the attribute of Stats)
_GAUGES = {
    "num_requests_running": ("Requests in the engine's batch", "num_running"),
    "num_requests_waiting": ("Requests that the engine has taken and not begun", "num_waiting"),
    "kv_cache_usage_ratio": ("Share of the KV blocks that requests hold", "kv_cache_usage"),
    "blocks_free": ("KV blocks that no request holds", "blocks_free"),
    "blocks_used": ("KV blocks that requests hold", "blocks_used"),
    "blocks_cached": ("KV blocks kept for prompts that begin alike", "blocks_cached"),
}
_COUNTERS = {
    "prompt_tokens": ("Tokens of prompts", "prompt_tokens_total"),
    "generation_tokens": ("Tokens of answers", "generation_tokens_total"),
    "preemptions": ("Requests sent back to the queue for want of KV blocks", "preemptions_total"),
    "prefix_cache_queries": ("Prompt tokens looked up in the prefix cache", "prefix_cache_queries_total"),
    "prefix_cache_hits": ("Prompt tokens found there", "prefix_cache_hits_total"),
    "spec_decode_drafted_tokens": ("Tokens proposed by a drafter", "drafted_tokens_total"),
    "spec_decode_accepted_tokens": ("Tokens of those that the model agreed to", "accepted_tokens_total"),
    "engine_steps": ("Steps of the engine", "steps_total"),
}


class Engine(Protocol):
    """What is asked of a model's client."""

    @property
    def stats(self) -> Stats: ...
    @property
    def state(self) -> str: ...
    @property
    def num_restarts(self) -> int: ...


class Queue(Protocol):
    num_requests: int
    num_tokens: int


class Metrics:
    """One server's. `engines` maps the names of models to their clients and may change."""

    def __init__(self, engines: Mapping[str, Engine], queue: Queue) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._engines = engines
        self._queue = queue

        def histogram(name: str, text: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
            return Histogram(f"pellucid_{name}_seconds", text, ["model"], buckets=buckets, registry=self._registry)

        self._first_token = histogram("time_to_first_token", "From a request's arrival to its first token")
        self._inter_token = histogram("inter_token_latency", "Between two tokens of a streamed answer", _TOKEN_SECONDS)
        self._whole = histogram("e2e_request_latency", "From a request's arrival to its end")
        self._queued = histogram("request_queue_time", "From a request's arrival to its first step")
        self._success = Counter(
            "pellucid_request_success_total",
            "Answers by the reason why they ended",
            ["model", "finish_reason"],
            registry=self._registry,
        )
        self._http = Counter(
            "pellucid_http_requests_total", "HTTP requests by route and status", ["route", "status"],
            registry=self._registry,
        )  # fmt: skip
        self._registry.register(self)

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def http_ended(self, route: str, status: int) -> None:
        """`route` is one of ours, never what a client sent: every value is kept for ever."""
        self._http.labels(route, status).inc()

    def inter_token(self, model: str) -> Histogram:
        """Where the seconds between two tokens of a stream are observed."""
        return self._inter_token.labels(model)

    def answered(self, model: str, result: RequestOutput) -> None:
        times = result.metrics
        self._queued.labels(model).observe(times.queue_time)
        self._whole.labels(model).observe(times.total_time)
        if times.time_to_first_token is not None:
            self._first_token.labels(model).observe(times.time_to_first_token)
        for output in result.outputs:
            self._success.labels(model, output.finish_reason).inc()

    def collect(self) -> Iterator[Metric]:
        """What is asked for when /metrics is read."""
        engines = list(self._engines.items())
        for name, (text, attribute) in _GAUGES.items():
            gauge = GaugeMetricFamily(f"pellucid_{name}", text, labels=["model"])
            for model, engine in engines:
                gauge.add_metric([model], getattr(engine.stats, attribute))
            yield gauge
        for name, (text, attribute) in _COUNTERS.items():
            counter = CounterMetricFamily(f"pellucid_{name}", text, labels=["model"])
            for model, engine in engines:
                counter.add_metric([model], getattr(engine.stats, attribute))
            yield counter
        restarts = CounterMetricFamily("pellucid_engine_restarts", "Engines that were replaced", labels=["model"])
        ready = GaugeMetricFamily("pellucid_engine_ready", "1 where requests are being answered", labels=["model"])
        for model, engine in engines:
            restarts.add_metric([model], engine.num_restarts)
            ready.add_metric([model], float(engine.state == "ready"))
        yield restarts
        yield ready
        yield GaugeMetricFamily("pellucid_queued_requests", "Requests without a first token", self._queue.num_requests)
        yield GaugeMetricFamily("pellucid_queued_tokens", "Their tokens, estimated", self._queue.num_tokens)
