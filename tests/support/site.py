"""A server under test: canaries that must be answered exactly, victims that may not be, and what is left after it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from support.faulty_server import FaultyServer

from pellucid import LLM, SamplingParams

NUM_CANARIES = 4
CANARY = {"temperature": 2.0, "max_tokens": 24, "ignore_eos": True, "logprobs": 1}
Exact = tuple[str, list[float]]
"""Text, and log-probabilities to the last bit."""


def offline_answers(model: Path, **settings: Any) -> list[Exact]:
    """What the canaries must be answered."""
    with LLM(str(model), **settings) as llm:
        params = [SamplingParams(seed=i, **CANARY) for i in range(NUM_CANARIES)]
        results = llm.generate([f"canary {i}" for i in range(NUM_CANARIES)], params, progress=False)
    return [(r.text, [next(iter(p.values())).logprob for p in r.logprobs or []]) for r in results]


@dataclass
class Tally:
    """What canaries were answered while something went wrong."""

    exact: int = 0
    refused: int = 0  # 503 in the shape of the API
    failed: int = 0  # 500 in that shape
    wrong: list[str] = field(default_factory=list)


class Site:
    """`client` opens a connection for each request, the canaries keep theirs open."""

    def __init__(
        self, server: FaultyServer, client: httpx.AsyncClient, canaries: httpx.AsyncClient, expected: list[Exact]
    ) -> None:
        self.server = server
        self.client = client
        self.model = Path(server.arguments[2])
        self._canaries = canaries
        self.expected = expected

    @property
    def pid(self) -> int:
        return self.server.process.pid

    @property
    def engine(self) -> int:
        [pid] = self.server.children()
        return pid

    async def complete(self, fault: str = "", prompt: str = "victim", **fields: Any) -> httpx.Response:
        body = {"prompt": prompt, "seed": 1, "max_tokens": 40, "ignore_eos": True, **fields}
        return await self.client.post("/v1/completions", json=body | ({"stop": [f"fault:{fault}"]} if fault else {}))

    @asynccontextmanager
    async def streaming(self, fault: str = "", **fields: Any) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The events of a streamed answer that has begun."""
        body = {"prompt": "victim", "seed": 1, "max_tokens": 200, "ignore_eos": True, "stream": True, **fields}
        body |= {"stop": [f"fault:{fault}"]} if fault else {}
        async with self.client.stream("POST", "/v1/completions", json=body) as answer:
            assert answer.status_code == 200
            events = _events(answer)
            await anext(events)
            yield events

    async def canary(self, number: int, tally: Tally) -> None:
        body = {"prompt": f"canary {number}", "seed": number, **CANARY}
        try:
            answer = await self._canaries.post("/v1/completions", json=body)
            if answer.status_code == 503:
                check_refusal(answer)
                tally.refused += 1
                return
            if answer.status_code == 500:
                check_refusal(answer, 500)
                tally.failed += 1
                return
            [choice] = answer.json()["choices"]
            found = choice["text"], choice["logprobs"]["token_logprobs"]
            if found == self.expected[number]:
                tally.exact += 1
            else:
                tally.wrong.append(f"{found} is not {self.expected[number]}")
        except Exception as error:
            tally.wrong.append(f"{type(error).__name__}: {error}")

    async def ready(self) -> bool:
        try:
            return (await self.client.get("/health/ready")).status_code == 200
        except httpx.HTTPError:
            return False

    async def until_ready(self, seconds: float) -> float:
        """Seconds until it is ready and answers a canary exactly; raises TimeoutError."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with asyncio.timeout(seconds):
            while True:
                if await self.ready():
                    tally = Tally()
                    await self.canary(0, tally)
                    if tally.exact:
                        return loop.time() - begun
                    assert not tally.wrong, tally.wrong
                await asyncio.sleep(0.01)

    async def longest_unready(self, over: asyncio.Event) -> float:
        """The longest time in seconds, until `over`, in which /health/ready did not answer that it is."""
        loop = asyncio.get_running_loop()
        longest, since = 0.0, loop.time()
        while not over.is_set():
            if await self.ready():
                longest, since = max(longest, loop.time() - since), loop.time()
            await asyncio.sleep(0.02)
        return longest

    async def at_rest(self) -> None:
        """Wait until nothing runs and the front has no more open files and tasks than a server at rest."""
        async with asyncio.timeout(30):
            while 'pellucid_num_requests_running{model="tiny"} 0.0' not in (await self.client.get("/metrics")).text:
                await asyncio.sleep(0.02)

    def open_files(self) -> list[str]:
        """What its file descriptors lead to, without the numbers of sockets and pipes."""
        found = []
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found.append(os.readlink(link).partition("[")[0])
        # libuv keeps one to spare, and another one once it had to use it
        return sorted("/dev/null" if name == "/" else name for name in found)

    def num_threads(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.pid}/task").iterdir())


@asynccontextmanager
async def site(model: Path, expected: list[Exact], *arguments: str) -> AsyncIterator[Site]:
    with FaultyServer(model, *arguments) as server:
        once = httpx.Limits(max_keepalive_connections=0)
        kept = httpx.Limits(max_connections=NUM_CANARIES, keepalive_expiry=60)
        async with (
            httpx.AsyncClient(base_url=server.url, timeout=60, limits=once) as client,
            httpx.AsyncClient(base_url=server.url, timeout=60, limits=kept) as canaries,
        ):
            yield Site(server, client, canaries, expected)


def check_refusal(answer: httpx.Response, status: int = 503) -> dict[str, Any]:
    """An error in the shape of OpenAI's API, without anything of the inside."""
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) >= {"message", "type", "code", "param"}, error
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    if status == 503:
        assert int(answer.headers["retry-after"]) >= 1
    return error


async def _events(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in answer.aiter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))
