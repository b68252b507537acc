"""Thousands of mixed requests at a server, good, bad and cancelled ones, and what they leave behind.

python tests/support/soak.py MODEL COUNT (a folder or a file) prints the figures for any count.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from support.server import Server
from support.tiny_model import write_tiny_model

from pellucid.tools.http_stream import Answer, Site, ask, ask_json

CONCURRENCY = 12
LARGE = 5_000
"""From so many requests on, what allocators and caches keep for themselves is less than a leak."""
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content or '' }}\n{% endfor %}"
OPTIONS = ("--served-model-name", "story", "--chat-template", TEMPLATE, "--kv-cache-memory", "2MiB", "--threads", "1")
"""A small cache, so that the first requests have touched all of it."""


def arguments(story: str | Path, folder: Path) -> list[str]:
    """Of `pellucid serve`: the Story model, and the tiny one for what Story's vocabulary cannot spell, such as "{"."""
    tiny = write_tiny_model(folder / "tiny.gguf", context=1024)
    return [str(story), *OPTIONS, "--add-model", f"tiny={tiny}"]


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


def good(rng: random.Random, number: int) -> Ask:
    """One of every kind that the API has, with lengths and seeds of its own."""
    # Of some hundred texts: the tokenizer library remembers 10,000 short ones in each thread, kilobytes each for Story.
    prompt = f"One day, friend number {number % 50} " + "went to the park and " * rng.randint(0, 8)
    length = {"max_tokens": rng.randint(1, 24), "seed": number}
    messages = [{"role": "user", "content": prompt}]
    tiny = {"model": "tiny", "messages": messages, "max_tokens": 60, "seed": number}
    form = {"type": "json_schema", "json_schema": {"name": "mood", "strict": True, "schema": FORM}}
    tools = {"tools": [CALL], "tool_choice": "required", "tool_prompt": True, "parallel_tool_calls": False}
    path, body = rng.choice([
        ("/v1/chat/completions", {"messages": messages, **length}),
        ("/v1/chat/completions", {"messages": messages, "stream": True, "logprobs": True, **length}),
        ("/v1/chat/completions", {**tiny, "response_format": form}),
        ("/v1/chat/completions", {**tiny, **tools}),
        ("/v1/completions", {"prompt": prompt, "n": rng.randint(1, 3), "logprobs": 2, **length}),
        ("/v1/completions", {"prompt": prompt, "stream": True, "stream_options": {"include_usage": True}, **length}),
        ("/v1/completions", {"prompt": [prompt, "The dog"], "stop": ["."], **length}),
        ("/v1/completions", {"prompt": prompt, "structured_outputs": {"regex": "[a-z]{3}"}, **length}),
        ("/v1/embeddings", {"input": [prompt, "a cat"]}),
        ("/tokenize", {"prompt": prompt}),
        ("/detokenize", {"tokens": [5, 6, 7, number % 2000]}),
    ])  # fmt: skip
    return "POST", path, json.dumps({"model": "story", **body}).encode()


def bad(rng: random.Random, number: int) -> Ask:
    """One that must be refused with a status below 500."""
    prompt = {"model": "story", "prompt": f"Number {number % 50}"}
    return rng.choice([
        ("POST", "/v1/completions", b"{" * rng.randint(1, 200)),
        ("POST", "/v1/completions", os.urandom(50)),
        ("POST", "/v1/completions", json.dumps({**prompt, f"unknown_{number}": 1}).encode()),
        ("POST", "/v1/completions", json.dumps({**prompt, "temperature": -number - 1}).encode()),
        ("POST", "/v1/completions", json.dumps({**prompt, "model": f"model-{number}"}).encode()),
        ("POST", "/v1/completions", json.dumps({**prompt, "prompt": "too long " * 600}).encode()),
        ("POST", "/v1/chat/completions", json.dumps({"model": "tiny", "messages": [{"role": f"r{number}"}]}).encode()),
        ("POST", "/v1/completions", json.dumps({**prompt, "structured_outputs": {"regex": f"({number}"}}).encode()),
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

    def __init__(self, server: Server, folder: Path, seed: int = 0) -> None:
        self.tally = Tally()
        self._server, self._folder = server, folder
        self._site = Site.of(server.url)
        self._rng = random.Random(seed)
        self._count = 0

    async def run(self, count: int) -> None:
        """`count` more requests: of ten about one bad, one cancelled."""
        numbers = iter(range(self._count, self._count + count))
        self._count += count

        async def client() -> None:
            for number in numbers:
                await self._one(number)

        await asyncio.gather(*(client() for _ in range(CONCURRENCY)))

    async def _one(self, number: int) -> None:
        kind = self._rng.random()
        asked = (bad if kind < 0.1 else good)(self._rng, number)
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
            self.tally.wrong.append(f"unanswered: {asked}: {error!r}")
            return
        if kind < 0.1 and 400 <= answer.status < 500 and "error" in json.loads(answer.body):
            self.tally.refused += 1
        elif kind >= 0.1 and _whole(answer):
            self.tally.answered += 1
        else:
            self.tally.wrong.append(f"status {answer.status}: {asked}: {answer.body[:300]!r} {answer.events[-2:]}")

    async def footprint(self) -> Footprint:
        """When everything that was asked for has ended."""
        async with asyncio.timeout(60):
            while await self._busy():
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)  # connections are closed a moment after their answers
        pids = [self._server.process.pid, *sorted(self._server.children())]
        return Footprint(
            tuple(map(_nbytes, pids)),
            Counter(target for pid in pids for target in _open_files(pid)),
            sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pids),
            sum(1 for _ in self._folder.rglob("*")),
        )

    async def _busy(self) -> bool:
        text = (await ask(self._site, "GET", "/metrics")).body.decode()
        gauges = [line for line in text.splitlines() if line.startswith("pellucid_num_requests_")]
        assert gauges
        return any(float(line.split()[-1]) for line in gauges)


def _whole(answer: Answer) -> bool:
    if answer.status != 200:
        return False
    return not answer.events or (answer.events[-1][1] == b"[DONE]" and b'"error"' not in answer.events[-2][1])


def _nbytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("RssAnon:", "VmSwap:")))


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
    tally: Tally
    before: Footprint
    after: Footprint
    num_between: int

    @property
    def growth(self) -> list[float]:
        """Bytes a request, of each process."""
        return [(b - a) / self.num_between for a, b in zip(self.before.nbytes, self.after.nbytes, strict=True)]


def soak(server: Server, folder: Path, warm_up: int, count: int) -> Report:
    """What `count` requests do after `warm_up` ones that fill caches and pools."""

    async def run() -> Report:
        work = Soak(server, folder)
        assert (await ask_json(Site.of(server.url), "/v1/models"))["data"]
        await work.run(warm_up)
        before = await work.footprint()
        await work.run(count)
        return Report(work.tally, before, await work.footprint(), count)

    return asyncio.run(run())


def main(model: str, count: int) -> None:
    with (
        tempfile.TemporaryDirectory() as models,
        tempfile.TemporaryDirectory() as folder,
        Server(*arguments(model, Path(models)), TMPDIR=folder) as server,
    ):
        begun = time.monotonic()
        report = soak(server, Path(folder), count // 4, count)
        print(f"{report.tally.total} requests in {time.monotonic() - begun:.0f} s: {report.tally}")
        print(f"growth a request, front and engines: {[round(n) for n in report.growth]} bytes")
        print(f"before {report.before}\nafter  {report.after}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
