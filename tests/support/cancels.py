"""Requests through AsyncLLM, most of which are left at a random moment, in every way in which one can leave."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

from pellucid import AsyncLLM, SamplingParams
from pellucid.structured_outputs import StructuredOutputs

AT_ONCE = 40


async def at_rest(llm: AsyncLLM) -> None:
    """Wait until nothing runs any more, then prove that no block is held."""
    engine = llm._llm._engine
    while await asyncio.wrap_future(llm._thread.submit(lambda: engine.has_unfinished)):
        await asyncio.sleep(0.001)
    await asyncio.wrap_future(llm._thread.submit(lambda: engine.cache.check(idle=True)))
    assert not llm._streams._of
    assert not llm._streams._named


def cancel_at_random(llm: AsyncLLM, count: int, *, seed: int = 0) -> Counter[str]:
    """Go on until `count` answers have been cancelled, and prove that no block leaked. How the answers ended.

    Prompts begin alike; several answers, priorities, tenants, salts and grammars among them. A request is left by
    cancelling its task (which may not have begun), by leaving its stream, or by its name.
    """
    rng = random.Random(seed)
    ends: Counter[str] = Counter()
    prefixes = [[rng.randrange(256) for _ in range(rng.randrange(20, 80))] for _ in range(4)]
    forms = [StructuredOutputs(regex=f"[a-z]{{{n},60}}") for n in range(2, 10)]

    async def one(name: str) -> None:
        form = rng.choice(forms) if rng.random() < 0.15 else None
        params = SamplingParams(
            temperature=2.0,
            seed=rng.randrange(1000),
            n=rng.choice([1, 1, 2, 3]),
            max_tokens=rng.randrange(1, 60),
            ignore_eos=form is None,
            structured_outputs=form,
        )
        prompt = rng.choice(prefixes) + [rng.randrange(256) for _ in range(rng.randrange(1, 12))]
        answer: Any = llm.generate(
            prompt,
            params,
            request_id=name,
            priority=rng.choice([0, 0, 1]),
            tenant=rng.choice("ab"),
            cache_salt=rng.choice(["", "", "salt"]),
        )
        way, moment = rng.choice(["task", "stream", "name", "stay"]), rng.randrange(20)
        if way == "task":
            task = asyncio.ensure_future(answer)
            for _ in range(moment):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            ends["abort" if task.cancelled() else "finished"] += params.n
            return
        open_answers = params.n
        stream = aiter(answer)
        async for chunk in stream:
            moment -= 4
            if chunk.finish_reason is not None:
                open_answers -= 1
                ends[chunk.finish_reason] += 1
            if moment < 0 and way == "stream":
                ends["abort"] += open_answers
                await stream.aclose()
                return
            if moment < 0 and way == "name":
                await llm.abort(name)

    async def worker(number: int) -> None:
        i = 0
        while ends["abort"] < count:
            await one(f"request {number}-{i}")
            i += 1

    async def everything() -> None:
        await asyncio.gather(*(worker(i) for i in range(AT_ONCE)))
        await at_rest(llm)

    asyncio.run(everything())
    return ends
