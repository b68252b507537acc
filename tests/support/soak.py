"""Thousands of mixed requests at a server, good, bad and cancelled ones, and what they leave behind.

The tests do it with hundreds, `make soak-server` (benchmarks/soak.py) with tens of thousands.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import median

from support.memory import anonymous_nbytes
from support.server import Server
from support.tiny_model import write_tiny_model

from pellucid.tools.http_stream import Answer, Site, ask, ask_json

CONCURRENCY = 12
NUM_LOOKS = 10
"""How often memory is looked at while the requests that count are made."""
MAX_GROWTH = 200.0
"""Bytes a request, of all processes together."""
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content or '' }}\n{% endfor %}"
OPTIONS = ("--served-model-name", "main", "--chat-template", TEMPLATE, "--threads", "1", "--kv-cache-memory", "2MiB")


def arguments(model: Path, folder: Path, *more: str) -> list[str]:
    """Of `pellucid serve`: the model, and the tiny one for what Story's vocabulary cannot spell, such as "{".

    The cache is small, so that the first requests have touched all of it.
    """
    tiny = write_tiny_model(folder / "tiny.gguf", context=1024)
    return [str(model), *OPTIONS, "--add-model", f"tiny={tiny}", *more]


CALL = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {
            "type": "object",
            "properties": {"where": {"enum": ["left", "right"]}},
            "required": ["where"],
            "additionalProperties": False,
        },
    },
}
FORM = {
    "type": "object",
    "properties": {"mood": {"enum": ["happy", "sad"]}, "n": {"type": "boolean"}},
    "required": ["mood", "n"],
    "additionalProperties": False,
}
Ask = tuple[str, str, bytes]


@dataclass(frozen=True)
class Mix:
    """What is asked. `speller` is a model that knows "{"; the longest prompt repeats `max_repeats` times six tokens."""

    speller: str = "tiny"
    max_tokens: int = 24
    max_repeats: int = 8


def good(rng: random.Random, number: int, mix: Mix) -> Ask:
    """One of every kind that the API has, with lengths and seeds of its own."""
    prompt = f"One day, friend number {number} " + "went to the park and " * rng.randint(0, mix.max_repeats)
    length = {"max_tokens": rng.randint(1, mix.max_tokens), "seed": number}
    messages = [{"role": "user", "content": prompt}]
    spelt = {"model": mix.speller, "messages": messages, "max_tokens": 60, "seed": number}
    form = {"type": "json_schema", "json_schema": {"name": "mood", "strict": True, "schema": FORM}}
    tools = {"tools": [CALL], "tool_choice": "required", "tool_prompt": True, "parallel_tool_calls": False}
    path, body = rng.choice([
        ("/v1/chat/completions", {"messages": messages, **length}),
        ("/v1/chat/completions", {"messages": messages, "stream": True, "logprobs": True, **length}),
        ("/v1/chat/completions", {**spelt, "response_format": form}),
        ("/v1/chat/completions", {**spelt, **tools}),
        ("/v1/completions", {"prompt": prompt, "n": rng.randint(1, 3), "logprobs": 2, **length}),
        ("/v1/completions", {"prompt": prompt, "stream": True, "stream_options": {"include_usage": True}, **length}),
        ("/v1/completions", {"prompt": [prompt, "The dog"], "stop": ["."], **length}),
        ("/v1/completions", {"prompt": prompt, "structured_outputs": {"regex": "[a-z]{3}"}, **length}),
        ("/v1/responses", {"input": prompt, "max_output_tokens": 16 + number % 8, "seed": number}),
        ("/v1/responses", {"input": messages, "stream": True, "max_output_tokens": 16 + number % 8, "seed": number}),
        ("/v1/messages", {"messages": messages, "max_tokens": length["max_tokens"]}),
        ("/v1/messages", {"messages": messages, "max_tokens": length["max_tokens"], "stream": True}),
        ("/v1/embeddings", {"input": [prompt, "a cat"]}),
        ("/v1/rerank", {"query": prompt, "documents": ["the park", f"{number} friends"]}),
        ("/v1/classify", {"model": mix.speller, "input": prompt, "labels": ["happy", "sad"]}),
        ("/tokenize", {"prompt": prompt}),
        ("/detokenize", {"tokens": [5, 6, 7, number % 2000]}),
    ])  # fmt: skip
    return "POST", path, json.dumps({"model": "main", **body}).encode()


def bad(rng: random.Random, number: int) -> Ask:
    """One that must be refused with a status below 500."""
    prompt = {"model": "main", "prompt": f"Number {number}"}
    return rng.choice([
        ("POST", "/v1/completions", b"{" * rng.randint(1, 200)),
        ("POST", "/v1/completions", os.urandom(50)),
        ("POST", "/v1/completions", json.dumps({**prompt, f"unknown_{number}": 1}).encode()),
        ("POST", "/v1/completions", json.dumps({**prompt, "temperature": -number - 1}).encode()),
        ("POST", "/v1/completions", json.dumps({**prompt, "model": f"model-{number}"}).encode()),
        ("POST", "/v1/completions", json.dumps({**prompt, "prompt": "too long " * 2000}).encode()),
        ("POST", "/v1/chat/completions", json.dumps({"model": "main", "messages": [{"role": f"r{number}"}]}).encode()),
        ("POST", "/v1/completions", json.dumps({**prompt, "structured_outputs": {"regex": f"({number}"}}).encode()),
        ("POST", "/v1/responses", json.dumps({"input": "And?", "previous_response_id": f"resp_{number}"}).encode()),
        ("POST", "/v1/messages", json.dumps({"messages": [], "max_tokens": number}).encode()),
        ("POST", "/tokenize", json.dumps({**prompt, "prompt": number}).encode()),
        ("GET", f"/v1/nothing-{number}", b""),
        ("DELETE", "/v1/completions", b""),
    ])  # fmt: skip


@dataclass
class Tally:
    """answered: as asked for. refused: bad ones, as they should be. wrong: everything else, in words."""

    answered: int = 0
    refused: int = 0
    cancelled: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.answered + self.refused + self.cancelled + len(self.wrong)


@dataclass(frozen=True)
class Footprint:
    """Of a server at rest, front and engines: anonymous memory in bytes (swapped out or not), what descriptors lead to,
    threads, temporary files."""

    nbytes: tuple[int, ...]
    files: Counter[str]
    threads: int
    temporary: int


class Soak:
    """Requests at `server`, whose temporary files would lie in `folder`."""

    def __init__(self, server: Server, folder: Path, mix: Mix, seed: int = 0) -> None:
        self.tally = Tally()
        self._server, self._folder, self._mix = server, folder, mix
        self._site = Site.of(server.url)
        self._rng = random.Random(seed)
        self._count = 0

    async def run(self, count: int, concurrency: int = CONCURRENCY) -> None:
        """`count` more requests: of ten about one bad, one cancelled."""
        numbers = iter(range(self._count, self._count + count))
        self._count += count

        async def client() -> None:
            for number in numbers:
                await self._one(number)

        await asyncio.gather(*(client() for _ in range(concurrency)))

    async def _one(self, number: int) -> None:
        kind = self._rng.random()
        asked = bad(self._rng, number) if kind < 0.1 else good(self._rng, number, self._mix)
        try:
            if 0.1 <= kind < 0.2:
                try:
                    async with asyncio.timeout(self._rng.uniform(0.0, 0.05)):
                        await ask(self._site, *asked)
                except TimeoutError:
                    pass
                self.tally.cancelled += 1  # it may have been answered first
                return
            async with asyncio.timeout(120):
                answer = await ask(self._site, *asked)
        except (OSError, TimeoutError) as error:
            self.tally.wrong.append(f"unanswered: {_brief(asked)}: {error!r}")
            return
        if kind < 0.1 and 400 <= answer.status < 500 and "error" in json.loads(answer.body):
            self.tally.refused += 1
        elif kind >= 0.1 and _whole(answer):
            self.tally.answered += 1
        else:
            self.tally.wrong.append(
                f"status {answer.status}: {_brief(asked)}: {answer.body[:300]!r} {answer.events[-2:]}"
            )

    async def footprint(self) -> Footprint:
        """When everything that was asked for has ended."""
        async with asyncio.timeout(60):
            while await self._busy():
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)  # connections are closed a moment after their answers
        pids = [self._server.process.pid, *sorted(self._server.children())]
        return Footprint(
            tuple(map(anonymous_nbytes, pids)),
            Counter(target for pid in pids for target in _open_files(pid)),
            sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pids),
            sum(1 for _ in self._folder.rglob("*")),
        )

    async def _busy(self) -> bool:
        text = (await ask(self._site, "GET", "/metrics")).body.decode()
        gauges = [line for line in text.splitlines() if line.startswith("pellucid_num_requests_")]
        assert gauges
        return any(float(line.split()[-1]) for line in gauges)


def _brief(asked: Ask) -> str:
    method, path, body = asked
    return f"{method} {path} {body[:300]!r}"


def _whole(answer: Answer) -> bool:
    if answer.status != 200:
        return False
    if not answer.events or answer.events[-1][1] == b"[DONE]":
        return not answer.events or b'"error"' not in answer.events[-2][1]
    return json.loads(answer.events[-1][1])["type"] in ("message_stop", "response.completed", "response.incomplete")


def _open_files(pid: int) -> list[str]:
    """Without the numbers of sockets and pipes."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(link).partition("[")[0])
        except FileNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Report:
    """`looks` are footprints, each after so many requests; the first one after those that fill caches and pools."""

    tally: Tally
    looks: list[tuple[int, Footprint]]

    @property
    def count(self) -> int:
        """Requests between the first look and the last."""
        return self.looks[-1][0] - self.looks[0][0]

    @property
    def growth(self) -> list[float]:
        """Bytes a request, of each process: the median slope between two looks (Theil 1950, Sen 1968).

        A leak makes every pair steeper; a step that an allocator takes once makes few.
        """
        return [
            median((b.nbytes[i] - a.nbytes[i]) / (n - m) for (m, a), (n, b) in combinations(self.looks, 2))
            for i in range(len(self.looks[0][1].nbytes))
        ]

    @property
    def total_growth(self) -> float:
        """Bytes a request, of all processes, from the first look to the last."""
        (_, before), (_, after) = self.looks[0], self.looks[-1]
        return (sum(after.nbytes) - sum(before.nbytes)) / self.count

    def first(self, count: int) -> Report:
        """What it would have been with so many requests after the first look."""
        return Report(self.tally, [look for look in self.looks if look[0] - self.looks[0][0] <= count])


def soak(
    server: Server, folder: Path, warm_up: int, count: int, *, num_looks: int = NUM_LOOKS, mix: Mix | None = None
) -> Report:
    """What `count` requests do after `warm_up` ones; `folder` is where temporary files of the server would lie.

    Raises AssertionError where one is answered as it should not be, or something but memory is left.
    """

    async def run() -> Report:
        work = Soak(server, folder, mix or Mix())
        assert (await ask_json(Site.of(server.url), "/v1/models"))["data"]
        await work.run(warm_up, 2 * CONCURRENCY)  # batches larger than any that follow
        looks = [(work.tally.total, await work.footprint())]
        for _ in range(num_looks):
            await work.run(count // num_looks)
            looks.append((work.tally.total, await work.footprint()))
        return Report(work.tally, looks)

    report = asyncio.run(run())
    _check(report)
    return report


def _check(report: Report) -> None:
    tally, (_, before), (_, after) = report.tally, report.looks[0], report.looks[-1]
    assert not tally.wrong, (len(tally.wrong), tally.wrong[:3])
    assert min(tally.answered, tally.refused, tally.cancelled) > 0
    assert after.files == before.files, (before.files, after.files)
    assert after.threads == before.threads, (before.threads, after.threads)
    assert after.temporary == before.temporary == 0
