"""Load a server with OpenAI's interface and measure what its clients see: Pellucid, vLLM, llama-server or another."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

from pellucid.errors import InvalidParameter, ResourceError
from pellucid.fields import integer, real
from pellucid.tools.bench_serve_jobs import MIXES, Job, arrivals, jobs
from pellucid.tools.http_stream import Answer, Site, ask, ask_json
from pellucid.tools.neighbours import Neighbours


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """concurrency: clients that each send a request when their last one has ended (closed loop).
    rate: or requests a second on average, at the times of a Poisson process, whatever the server manages (open loop).
    slo_ttft, slo_itl: seconds to the first token, and between tokens on average, for an answer to count as good.
    slow_loris: connections beside the load that send a request's head so slowly that it never ends.
    retry: a client that is refused comes again with the same request, after the time that the server names and up to a
        quarter more, as clients do.
    timeout: seconds after which a client gives up.
    """

    num_requests: int = 100
    concurrency: int | None = None
    rate: float | None = None
    mix: str = "sharegpt"
    seed: int = 0
    chat: bool = False
    slo_ttft: float = 2.0
    slo_itl: float = 0.2
    slow_loris: int = 0
    retry: bool = False
    timeout: float = 600.0

    def __post_init__(self) -> None:
        integer("requests", self.num_requests, 1, 10**7)
        integer("slow_loris", self.slow_loris, 0, 50_000)
        if (self.concurrency is None) == (self.rate is None):
            raise InvalidParameter("concurrency", "give concurrency or rate, one of them")
        if self.concurrency is not None:
            integer("concurrency", self.concurrency, 1, 50_000)
        if self.rate is not None:
            real("rate", self.rate, 0.0, 1e6, open_low=True)
        for name in ("slo_ttft", "slo_itl", "timeout"):
            real(name, getattr(self, name), 0.0, 1e6, open_low=True)
        if self.mix not in MIXES:
            raise InvalidParameter("mix", f"expected one of {', '.join(MIXES)}, got {self.mix!r}")


@dataclass
class Sample:
    """What one client saw, times in seconds. error: a status, "timeout", "connection" or what ended a stream.

    sent: when, since the load began.
    """

    error: str | None = None
    seconds: float = 0.0
    first_token: float | None = None
    gaps: tuple[float, ...] = ()
    num_prompt: int = 0
    num_new: int = 0
    detail: str = ""
    sent: float = 0.0
    retry_after: float | None = None


def load(
    url: str,
    options: LoadOptions,
    model: str | None = None,
    api_key: str | None = None,
    say: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Measure the server at `url`. `model`: which of its models, if it has several. The result can be JSON.

    Raises ResourceError when the server does not answer the first request, which is not counted.
    """
    return asyncio.run(_load(Site.of(url, api_key), options, model, say))


async def _load(site: Site, options: LoadOptions, model: str | None, say: Callable[[str], None]) -> dict[str, Any]:
    try:
        model = model or str((await ask_json(site, "/v1/models"))["data"][0]["id"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ResourceError(f"no OpenAI interface at {site.host}:{site.port}: {error}") from error
    work = jobs(options.mix, options.num_requests, options.seed)
    first = await _one(site, work[0], model, options)
    if first.error is not None:
        raise ResourceError(
            f"the server at {site.host}:{site.port} does not answer: {first.error} {first.detail}".rstrip()
        )
    lorises = [asyncio.create_task(_loris(site)) for _ in range(options.slow_loris)]
    with Neighbours() as others:
        cpu, begun = time.process_time(), time.perf_counter()
        samples = await _run(site, work, model, options, say)
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    for loris in lorises:
        loris.cancel()
    await asyncio.gather(*lorises, return_exceptions=True)
    about = {"model": model, "options": asdict(options), "others": others.share, "client_cpu_seconds": round(cpu, 3)}
    return {**about, **summary(samples, seconds, options)}


async def _run(
    site: Site, work: list[Job], model: str, options: LoadOptions, say: Callable[[str], None]
) -> list[Sample]:
    samples: list[Sample] = []
    begun, num_done, rng = time.perf_counter(), 0, random.Random(options.seed)

    async def one(job: Job) -> None:
        nonlocal num_done
        while True:
            sent = time.perf_counter() - begun
            sample = replace(await _one(site, job, model, options), sent=sent)
            samples.append(sample)
            if sample.retry_after is None or not options.retry:
                break
            await asyncio.sleep(sample.retry_after * rng.uniform(1.0, 1.25))
        num_done += 1
        say(f"{num_done} of {len(work)} requests")

    if options.rate is not None:
        times = arrivals(len(work), options.rate, options.seed)

        async def later(job: Job, at: float) -> None:
            await asyncio.sleep(at - (time.perf_counter() - begun))
            await one(job)

        await asyncio.gather(*(later(job, at) for job, at in zip(work, times, strict=True)))
        return samples
    waiting = iter(work)

    async def client() -> None:
        for job in waiting:
            await one(job)

    assert options.concurrency is not None
    await asyncio.gather(*(client() for _ in range(options.concurrency)))
    return samples


async def _one(site: Site, job: Job, model: str, options: LoadOptions) -> Sample:
    path = "/v1/chat/completions" if options.chat else "/v1/completions"
    body = json.dumps(job.body(model, options.chat)).encode()
    begun = time.perf_counter()
    try:
        async with asyncio.timeout(options.timeout):
            return sample_of(await ask(site, "POST", path, body))
    except TimeoutError:
        return Sample("timeout", time.perf_counter() - begun)
    except OSError as error:
        return Sample("connection", time.perf_counter() - begun, detail=str(error))


def sample_of(answer: Answer) -> Sample:
    """An answer's times and counts. A stream that ends with an error is one, by its code."""
    seconds = answer.ended - answer.sent
    if answer.status != 200:
        detail = answer.body[:500].decode(errors="replace")
        return Sample(str(answer.status), seconds, detail=detail, retry_after=answer.retry_after)
    arrivals: list[float] = []
    usage: dict[str, int] = {}
    for at, data in answer.events:
        if data == b"[DONE]":
            continue
        event = json.loads(data)
        if "error" in event:
            return Sample(f"stream: {event['error'].get('code')}", seconds)
        usage = event.get("usage") or usage
        if any(_text(choice) for choice in event["choices"]):
            arrivals.append(at)
    if not usage:
        return Sample("no usage", seconds)
    gaps = tuple(after - before for before, after in pairwise(arrivals))
    first = arrivals[0] - answer.sent if arrivals else None
    return Sample(None, seconds, first, gaps, usage["prompt_tokens"], usage["completion_tokens"])


def _text(choice: dict[str, Any]) -> object:
    delta = choice.get("delta") or {}
    return choice.get("text") or delta.get("content") or delta.get("reasoning_content") or delta.get("tool_calls")


async def _loris(site: Site) -> None:
    """A byte of a head now and then; cut off, it comes again."""
    while True:
        with suppress(OSError):
            _, writer = await asyncio.open_connection(site.host, site.port, ssl=site.tls)
            try:
                writer.write(b"POST /v1/completions HTTP/1.1\r\nx: ")
                while not writer.is_closing():
                    writer.write(b"a")
                    await writer.drain()
                    await asyncio.sleep(1.0)
            finally:
                writer.transport.abort()
        await asyncio.sleep(0.1)


def summary(samples: list[Sample], seconds: float, options: LoadOptions) -> dict[str, Any]:
    """Rates over the whole time, and percentiles in seconds (None without samples)."""
    good = [sample for sample in samples if sample.error is None]
    within = sum(_within(sample, options) for sample in good)
    failed = Counter(sample.error for sample in samples if sample.error is not None)
    return {
        "seconds": seconds,
        "answered": len(good),
        "errors": dict(sorted(failed.items())),
        "prompt_tokens": sum(sample.num_prompt for sample in good),
        "new_tokens": sum(sample.num_new for sample in good),
        "new_tokens_per_second": sum(sample.num_new for sample in good) / seconds,
        "requests_per_second": len(good) / seconds,
        "goodput": within / seconds,
        "first_token": percentiles([s.first_token for s in good if s.first_token is not None]),
        "between_tokens": percentiles([gap for sample in good for gap in sample.gaps]),
        "whole": percentiles([sample.seconds for sample in good]),
        "refusal": percentiles([s.seconds for s in samples if s.error in ("429", "503")]),
        "timeline": timeline(good, seconds),
    }


def timeline(good: Sequence[Sample], seconds: float, most: int = 24) -> list[dict[str, Any]]:
    """What happened in each of up to `most` equal parts of the run, around `at`.

    A first token and a gap between tokens count where they end, tokens where the event came that brought them.
    """
    parts = max(1, min(most, len(good) // 8))
    first: list[list[float]] = [[] for _ in range(parts)]
    between: list[list[float]] = [[] for _ in range(parts)]
    tokens = [0.0] * parts

    def part(at: float) -> int:
        return min(int(at / seconds * parts), parts - 1)

    for sample in good:
        if sample.first_token is None:
            continue
        at = sample.sent + sample.first_token
        first[part(at)].append(sample.first_token)
        share = sample.num_new / (len(sample.gaps) + 1)  # of each event: what it holds is not told
        tokens[part(at)] += share
        for gap in sample.gaps:
            at += gap
            between[part(at)].append(gap)
            tokens[part(at)] += share
    return [
        {
            "at": (i + 0.5) * seconds / parts,
            "first_token": percentiles(first[i]),
            "between_tokens": percentiles(between[i]),
            "new_tokens_per_second": tokens[i] / (seconds / parts),
        }
        for i in range(parts)
    ]


def _within(sample: Sample, options: LoadOptions) -> bool:
    gap = sum(sample.gaps) / len(sample.gaps) if sample.gaps else 0.0
    return sample.first_token is not None and sample.first_token <= options.slo_ttft and gap <= options.slo_itl


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """The 50th, 90th and 99th: of sorted values the one with so many percent of them at or below it."""
    if not values:
        return None
    ordered = sorted(values)
    return {f"p{percent}": ordered[-(-percent * len(ordered) // 100) - 1] for percent in (50, 90, 99)}
