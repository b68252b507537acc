"""A request that is made again and again beside whatever else happens to a server, and must be answered exactly."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.exact_answers import Ask, comparable, comparable_stream, offline

from pellucid import LLM
from pellucid.tools.http_stream import Site, ask

PAUSE = 0.01
TIMEOUT = 60.0
_PROMPTS = ("canary", "A canary in a coal mine sings")


def canary_asks() -> list[Ask]:
    """Random tokens with their log-probabilities, whole and streamed."""
    body = {"temperature": 2.0, "max_tokens": 24, "ignore_eos": True, "logprobs": 3, "receipt": True}
    return [
        Ask("/v1/completions", {**body, "prompt": prompt, "seed": seed, "stream": bool(seed % 2)})
        for seed, prompt in enumerate(_PROMPTS)
    ]


class Canary:
    """`expected` are the answers of offline single runs of `model`, to canary_asks()."""

    def __init__(self, site: Site, model: Path, **settings: object) -> None:
        self._site = site
        self._asks = canary_asks()
        with LLM(str(model), **settings) as llm:
            self.expected = [offline(llm, own) for own in self._asks]
        self.count = 0

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Meanwhile, from before the block begins until after it has ended, there is always one. Raises AssertionError
        if one is not answered token for token and bit for bit as offline."""
        over = threading.Event()
        begun = threading.Event()
        failures: list[BaseException] = []

        def sing() -> None:
            try:
                asyncio.run(self._sing(begun, over))
            except BaseException as error:
                failures.append(error)
            finally:
                begun.set()

        thread = threading.Thread(target=sing)
        thread.start()
        begun.wait()
        try:
            yield
        finally:
            over.set()
            thread.join()
        if failures:
            raise AssertionError(f"beside it, the canary failed: {failures[0]!r}") from failures[0]

    async def _sing(self, begun: threading.Event, over: threading.Event) -> None:
        number = self.count
        while True:
            last = over.is_set()
            number += 1
            own, right = self._asks[number % len(self._asks)], self.expected[number % len(self._asks)]
            asked = asyncio.create_task(ask(self._site, "POST", own.path, json.dumps(own.body).encode()))
            await asyncio.sleep(0)
            begun.set()
            async with asyncio.timeout(TIMEOUT):
                answer = await asked
            assert answer.status == 200, answer.body
            events = [data for _, data in answer.events]
            found = (
                comparable_stream(own.path, events, own) if events else comparable(own.path, json.loads(answer.body))
            )
            assert found == right
            self.count = number
            if last:
                return
            await asyncio.sleep(PAUSE)
