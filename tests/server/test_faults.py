"""What a server does when something breaks: requests that have nothing to do with it are answered exactly, the others
in the shape of the API, it is ready again soon, and nothing stays behind.

`make faults` does each of them five times and holds the server to three seconds.
"""

import asyncio
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.engines import SETTINGS, open_files
from support.faults import FAULTS, alive
from support.faulty_server import FaultyServer
from support.site import NUM_CANARIES, Exact, Site, Tally, check_refusal, offline_answers, site
from support.tiny_model import write_tiny_model

COMMON = ("engine_killed", "logits_are_nan", "tokenizer_panics", "client_never_reads", "clock_jumps")
"""Those of the default run."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def expected(path: Path) -> list[Exact]:
    return offline_answers(path, **SETTINGS)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def running(path: Path, expected: list[Exact], runner: asyncio.Runner, soak: bool) -> Iterator[Site]:
    context = site(
        path, expected, *(("--silent-after", "2", "--hung-after", "1.5", "--crash-window", "2") if soak else ())
    )
    yield runner.run(context.__aenter__())
    runner.run(context.__aexit__(None, None, None))


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault(name: str, running: Site, runner: asyncio.Runner, soak: bool) -> None:
    if not soak and name not in COMMON:
        pytest.skip("one of `make faults`")
    for _ in range(5 if soak else 1):
        runner.run(asyncio.wait_for(survive(name, running, 3.0 if soak else 30.0), 120))


async def survive(name: str, site: Site, seconds: float) -> None:
    fault, tally = FAULTS[name], Tally()
    await site.until_ready(30)
    await asyncio.gather(*(site.canary(number, tally) for number in range(NUM_CANARIES)))
    await site.at_rest()
    files, threads = site.open_files(), site.num_threads()
    over = asyncio.Event()

    async def canaries(number: int) -> None:
        while not over.is_set():
            await site.canary(number, tally)

    beside = [asyncio.create_task(canaries(number)) for number in range(NUM_CANARIES)]
    try:
        await fault.do(site)
    finally:
        took = await site.until_ready(seconds)
        over.set()
        await asyncio.gather(*beside)
    assert not tally.wrong, tally.wrong[:3]
    if not fault.costs_others:
        assert tally.refused == 0
    if not fault.fails_step:
        assert tally.failed == 0
    await site.at_rest()
    assert len(site.server.children()) == 1
    for line in site.server.log.splitlines():
        json.loads(line)
    with suppress(TimeoutError):
        await settled(lambda: not (Counter(site.open_files()) - Counter(files)))
    assert Counter(site.open_files()) - Counter(files) == Counter()
    assert site.num_threads() <= threads + 6  # a pool may have been filled, once
    print(f"{name}: ready after {took:.2f} s, {tally.exact} exact, {tally.refused} refused")


async def settled(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.02)


# ---- the end of the server, in each phase


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 120))


@pytest.fixture
def times(soak: bool) -> range:
    return range(5 if soak else 1)


@pytest.fixture
def often(soak: bool) -> range:
    """Of what other tests do once in the default run."""
    if not soak:
        pytest.skip("one of `make faults`")
    return range(5)


@pytest.fixture
def nothing_left() -> Iterator[None]:
    files = open_files()
    yield
    assert open_files() == files


def gone(pids: list[int]) -> bool:
    until = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.01)
    return not any(alive(pid) for pid in pids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.usefixtures("nothing_left")
def test_a_signal_at_rest(path: Path, number: int, often: range) -> None:
    for _ in often:
        with FaultyServer(path) as server:
            engines = server.children()
            assert server.stop(number) == 0
        assert gone(engines)


@pytest.mark.usefixtures("nothing_left")
def test_a_signal_while_requests_run_lets_them_end(path: Path, expected: list[Exact], often: range) -> None:
    async def terminate() -> None:
        async with site(path, expected) as running:
            engines, tally = running.server.children(), Tally()
            slow = asyncio.create_task(running.complete("sleep:0.02", max_tokens=60))
            async with running.streaming("sleep:0.02", max_tokens=60) as events:
                beside = asyncio.create_task(running.canary(1, tally))
                await asyncio.sleep(0.1)
                os.kill(running.pid, signal.SIGTERM)
                await asyncio.sleep(0.1)
                with suppress(httpx.HTTPError):
                    check_refusal(await running.complete())
                assert not [event async for event in events if "error" in event]
            assert (await slow).status_code == 200
            await beside
            assert (tally.exact, tally.wrong) == (1, [])
            assert await asyncio.to_thread(running.server.process.wait, 20) == 0
            assert gone(engines)

    for _ in often:
        run(terminate())


@pytest.mark.usefixtures("nothing_left")
def test_the_second_signal_aborts(path: Path, expected: list[Exact], often: range) -> None:
    async def terminate() -> None:
        async with site(path, expected) as running:
            engines = running.server.children()
            waiting = asyncio.create_task(running.complete("sleep:1", max_tokens=200))
            async with running.streaming("sleep:0.02") as events:
                os.kill(running.pid, signal.SIGTERM)
                await anext(events)
                os.kill(running.pid, signal.SIGTERM)
                assert "error" in [event async for event in events][-1]
            check_refusal(await waiting)
            assert await asyncio.to_thread(running.server.process.wait, 20) == 0
            assert gone(engines)

    for _ in often:
        run(terminate())


@pytest.mark.usefixtures("nothing_left")
def test_a_signal_while_the_engine_is_started_again(path: Path, expected: list[Exact], times: range) -> None:
    async def terminate() -> None:
        async with site(path, expected) as running:
            os.kill(running.engine, signal.SIGKILL)
            await asyncio.sleep(0.05)
            engines = running.server.children()
            os.kill(running.pid, signal.SIGTERM)
            assert await asyncio.to_thread(running.server.process.wait, 20) == 0
            assert gone(engines)

    for _ in times:
        run(terminate())


@pytest.mark.usefixtures("nothing_left")
def test_a_signal_while_it_starts(path: Path, soak: bool) -> None:
    for delay in [0.05, 0.2, 0.4, 0.6, 0.8, 1.0] if soak else [0.4]:
        server = FaultyServer(path)
        with suppress(AssertionError):  # it says nothing before it ends
            starter = _Terminator(server, delay)
            with server:
                pass
            assert starter
        assert gone(starter.engines)


class _Terminator:
    """Sends SIGTERM to a server some time after its process was started."""

    def __init__(self, server: FaultyServer, delay: float) -> None:
        self.engines: list[int] = []
        self._server = server
        self._delay = delay
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while not hasattr(self._server, "process"):
            time.sleep(0.001)
        time.sleep(self._delay)
        self.engines = self._server.children()
        self._server.process.terminate()


@pytest.mark.usefixtures("nothing_left")
def test_a_server_that_is_killed_takes_its_engine_with_it(path: Path, expected: list[Exact], often: range) -> None:
    async def kill() -> None:
        async with site(path, expected) as running:
            engines = running.server.children()
            async with running.streaming("sleep:0.02"):
                os.kill(running.pid, signal.SIGKILL)
                assert await asyncio.to_thread(gone, engines)

    for _ in often:
        with suppress(httpx.HTTPError):
            run(kill())


def test_an_engine_that_is_lost_too_often_is_given_up_with_a_reason(
    path: Path, expected: list[Exact], often: range
) -> None:
    async def lose() -> None:
        async with site(path, expected, "--max-crashes", "2") as running:
            for _ in range(2):
                await running.until_ready(30)
                os.kill(running.engine, signal.SIGKILL)
            async with asyncio.timeout(20):
                while (await running.client.get("/health/ready")).json()["status"] != "failed":
                    await asyncio.sleep(0.01)
            answer = await running.complete()
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_failed")
            assert (await running.client.get("/health/live")).status_code == 200

    for _ in often:
        run(lose())
