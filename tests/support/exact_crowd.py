"""A crowd at a server: good requests at random load, some streamed, beside cancelled and hostile ones. Every good one
must be answered exactly as an offline single run answers it, log-probabilities to the last bit."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.exact_answers import Ask, Comparable, comparable, comparable_stream, offline, random_asks, settings_for
from support.hostile_requests import BODIES, HostileBody
from support.server import Server

from pellucid import LLM
from pellucid.tools.http_stream import Site, ask

CLIENTS = 24
RATES = (5.0, 30.0, 1000.0)
"""Requests a second that a client sends when it has no other; a new one is drawn now and then."""
CANCELLED = HOSTILE = 0.1
SMALL = [hostile for hostile in BODIES if len(hostile.body) < 100_000]
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content or '' }}\n{% endfor %}"
TIMEOUT = 300.0


@dataclass
class Report:
    """What was compared, and one line for everything that was not the same."""

    num_requests: int = 0
    num_streams: int = 0
    num_answers: int = 0
    num_tokens: int = 0
    num_logprobs: int = 0
    num_cancelled: int = 0
    num_hostile: int = 0
    num_preemptions: int = 0
    num_cached_tokens: int = 0
    paths: dict[str, int] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)


def compare_crowd(model: Path, count: int, *, calls: bool = False, template: str | None = None) -> Report:
    """`count` good requests to a server of its own with a small cache. calls: some of them call tools."""
    rng = random.Random(0)
    common = {} if template is None else {"chat_template": template}
    with LLM(str(model), enable_prefix_caching=False, max_model_len=512, **common) as llm:
        asks = random_asks(count, rng, settings_for(llm), calls=calls)
        expected = [offline(llm, own) for own in asks]
    options = ["-c", "512", "--max-num-seqs", "12", "--kv-cache-memory", "2MiB" if template else "24MiB"]
    options += [] if template is None else ["--chat-template", template]
    with Server(str(model), "--served-model-name", "m", *options) as server:
        return asyncio.run(_crowd(Site.of(server.url), asks, expected, rng))


async def _crowd(site: Site, asks: Sequence[Ask], expected: Sequence[Comparable], rng: random.Random) -> Report:
    report = Report()
    upcoming = iter(zip(asks, expected, strict=True))

    async def client() -> None:
        rate = rng.choice(RATES)
        for own, right in upcoming:
            await asyncio.sleep(rng.expovariate(rate))
            rate = rng.choice(RATES) if rng.random() < 0.2 else rate
            if rng.random() < CANCELLED:
                await _cancel(site, own, rng, report)
            if rng.random() < HOSTILE:
                await _harm(site, rng.choice(SMALL), report)
            await compare(site, own, right, report)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    text = (await ask(site, "GET", "/metrics")).body.decode()
    report.num_preemptions = _metric(text, "pellucid_preemptions_total")
    report.num_cached_tokens = _metric(text, "pellucid_prefix_cache_hits_total")
    return report


async def compare(site: Site, own: Ask, right: Comparable, report: Report) -> None:
    """Ask once, and put into `report` how the answer differs from `right`."""
    async with asyncio.timeout(TIMEOUT):
        answer = await ask(site, "POST", own.path, json.dumps(own.body).encode())
    if answer.status != 200:
        report.differences.append(f"status {answer.status} for {own}: {answer.body[:500]!r}")
        return
    if own.body.get("stream"):
        found = comparable_stream(own.path, [data for _, data in answer.events], own)
    else:
        found = comparable(own.path, json.loads(answer.body))
    report.num_requests += 1
    report.num_streams += own.body.get("stream", False)
    report.num_answers += len(right["answers"])
    report.num_tokens += sum(map(len, right["answers"]))
    report.num_logprobs += _num_logprobs(right)
    report.paths[own.path] = report.paths.get(own.path, 0) + 1
    for name in right:
        if found[name] != right[name]:
            report.differences.append(f"{name} of {own}: got {found[name]}, offline it is {right[name]}")


async def _cancel(site: Site, own: Ask, rng: random.Random, report: Report) -> None:
    """The same request, hung up on at a random moment."""
    try:
        async with asyncio.timeout(rng.uniform(0.0, 0.05)):
            await ask(site, "POST", own.path, json.dumps(own.body).encode())
    except TimeoutError:
        report.num_cancelled += 1


async def _harm(site: Site, hostile: HostileBody, report: Report) -> None:
    answer = await ask(site, "POST", hostile.path, hostile.body)
    report.num_hostile += 1
    if answer.status not in hostile.statuses or b"Traceback" in answer.body:
        report.differences.append(f"{hostile.name}: status {answer.status}, {answer.body[:300]!r}")


def _num_logprobs(right: Comparable) -> int:
    """Numbers that were compared to the last bit."""
    count = sum(map(_count_floats, right["prompt_logprobs"]))
    return count + sum(_count_floats(choice["logprobs"]) for choice in right.get("choices", ()))


def _count_floats(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_count_floats, value.values()))
    if isinstance(value, list):
        return sum(map(_count_floats, value))
    return isinstance(value, float)


def _metric(text: str, name: str) -> int:
    return sum(int(float(line.split()[-1])) for line in text.splitlines() if line.startswith(f"{name}{{"))
