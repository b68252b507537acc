"""ModelClients on small models for tests: a policy that acts within tenths of a second, and what was left behind."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from support.faulty_engine import command

from pellucid.engine.outputs import RequestOutput, StreamChunk
from pellucid.sampling import SamplingParams
from pellucid.server.messages import Finished, GenerateRequest, Started
from pellucid.server.model_client import ModelClient
from pellucid.server.supervisor import Policy

SETTINGS = {"threads": 1, "kv_cache_memory": "1MiB"}
QUICK = Policy(heartbeat_interval=0.05, silent_after=10.0, stalled_after=0.3, hung_after=30.0, restart_delay=0.05)


@asynccontextmanager
async def serving(path: Path, *options: str, policy: Policy = QUICK, **settings: Any) -> AsyncIterator[ModelClient]:
    """A client of the faulty engine, ready; closed at the end."""
    settings = {"model": str(path), **SETTINGS, **settings}
    client = ModelClient("tiny", settings, policy=policy, command=command(*options))
    try:
        await client.attach()
        await client.ready()
        yield client
    finally:
        await client.close()


def asked(prompt: str = "Hello", *, stream: bool = True, fault: str = "", **params: Any) -> GenerateRequest:
    """`fault` is one of faulty_engine.py."""
    settings: dict[str, Any] = {"temperature": 2.0, "seed": 1, "ignore_eos": True, "max_tokens": 30, **params}
    settings |= {"stop": [f"fault:{fault}"]} if fault else {}
    return GenerateRequest(prompt=prompt, params=SamplingParams(**settings), stream=stream)


async def whole(client: ModelClient, request: GenerateRequest) -> RequestOutput:
    """The result, and a check that what was streamed is the same."""
    texts: dict[int, str] = {}
    tokens: dict[int, list[int]] = {}
    seen: list[type] = []
    async with aclosing(client.generate(request)) as answers:
        async for answer in answers:
            seen.append(type(answer))
            if isinstance(answer, StreamChunk):
                texts[answer.index] = texts.get(answer.index, "") + answer.text
                tokens[answer.index] = tokens.get(answer.index, []) + answer.token_ids
            elif isinstance(answer, Finished):
                result = answer.result
    assert seen[-1] is Finished
    if result.outputs[0].token_ids:
        assert seen[0] is Started
    if request.stream:
        assert texts == {output.index: output.text for output in result.outputs}
        assert tokens == {output.index: output.token_ids for output in result.outputs}
    else:
        assert seen == [Started, Finished]
    return result


async def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def children() -> set[int]:
    """This process's children, as Linux lists them."""
    pids: set[int] = set()
    for listing in Path("/proc/self/task").glob("*/children"):
        pids |= {int(pid) for pid in listing.read_text().split()}
    return pids


def open_files() -> set[str]:
    gc.collect()
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{link.name} {os.readlink(link)}")
        except FileNotFoundError:
            continue
    return found
