"""What a server does when something breaks: requests that have nothing to do with it are answered exactly, the others
in the shape of the API, it is ready again soon, and nothing stays behind.

`make faults` does each of them five times and holds the server to three seconds (--within: more, on a busy machine).
"""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.engines import SETTINGS, open_files
from support.faults import FAULTS, alive
from support.faulty_server import FaultyServer
from support.server import children_of
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


@pytest.fixture(scope="module")
def figures(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """What was measured, by kind of fault: how often, and the longest times in seconds."""
    found: dict[str, Any] = {}
    yield found
    if (path := request.config.getoption("--figures")) is not None:
        path.write_text(json.dumps(found))


def note(figures: dict[str, Any], name: str, **seconds: float) -> None:
    kind = figures.setdefault(name, {"times": 0})
    kind["times"] += 1
    for key, value in seconds.items():
        kind[key] = round(max(value, kind.get(key, 0.0)), 3)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault(
    name: str, running: Site, runner: asyncio.Runner, soak: bool, figures: dict[str, Any], request: Any
) -> None:
    if not soak and name not in COMMON:
        pytest.skip("one of `make faults`")
    seconds = request.config.getoption("--within") if soak else 30.0
    for _ in range(5 if soak else 1):
        runner.run(asyncio.wait_for(survive(name, running, seconds, figures), 120))


async def survive(name: str, site: Site, seconds: float, figures: dict[str, Any]) -> None:
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
    watching = asyncio.create_task(site.longest_unready(over))
    try:
        await fault.do(site)
    finally:
        exact_after = await site.until_ready(30)
        over.set()
        await asyncio.gather(*beside)
        unready = max(0.0, await watching - fault.pause)
    note(figures, name, unready=unready, exact_after=exact_after)
    assert not tally.wrong, tally.wrong[:3]
    if not fault.costs_others:
        assert tally.refused == 0
    if not fault.fails_step:
        assert tally.failed == 0
    assert max(unready, exact_after) <= seconds
    await site.at_rest()
    assert len(site.server.children()) == 1
    for line in site.server.log.splitlines():
        json.loads(line)
    with suppress(TimeoutError):
        await settled(lambda: not (Counter(site.open_files()) - Counter(files)))
    assert Counter(site.open_files()) - Counter(files) == Counter()
    assert site.num_threads() <= threads + 6  # a pool may have been filled, once
    print(f"{name}: not ready for {unready:.2f} s, {tally.exact} exact, {tally.refused} refused")


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


Ended = Callable[[str, FaultyServer, float], None]


@pytest.fixture
def ended(figures: dict[str, Any]) -> Ended:
    """Notes that a server, signalled at a time of time.monotonic(), has ended well."""

    def check(name: str, server: FaultyServer, signalled: float) -> None:
        assert "Traceback" not in server.log, server.log
        note(figures, name, ended=time.monotonic() - signalled)

    return check


def gone(pids: list[int]) -> bool:
    until = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.01)
    return not any(alive(pid) for pid in pids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.usefixtures("nothing_left")
def test_a_signal_at_rest(path: Path, number: int, often: range, ended: Ended) -> None:
    for _ in often:
        with FaultyServer(path) as server:
            engines, begun = server.children(), time.monotonic()
            assert server.stop(number) == 0
            assert gone(engines)
            ended(f"{signal.Signals(number).name} at rest", server, begun)


@pytest.mark.usefixtures("nothing_left")
def test_a_signal_while_requests_run_lets_them_end(
    path: Path, expected: list[Exact], often: range, ended: Ended
) -> None:
    async def terminate() -> None:
        async with site(path, expected) as running:
            engines, tally = running.server.children(), Tally()
            slow = asyncio.create_task(running.complete("sleep:0.02", max_tokens=60))
            async with running.streaming("sleep:0.02", max_tokens=60) as events:
                beside = asyncio.create_task(running.canary(1, tally))
                await asyncio.sleep(0.1)
                os.kill(running.pid, signal.SIGTERM)
                begun = time.monotonic()
                await asyncio.sleep(0.1)
                with suppress(httpx.HTTPError):
                    check_refusal(await running.complete())
                assert not [event async for event in events if "error" in event]
            assert (await slow).status_code == 200
            await beside
            assert (tally.exact, tally.wrong) == (1, [])
            assert await asyncio.to_thread(running.server.process.wait, 20) == 0
            assert gone(engines)
            ended("SIGTERM while requests run", running.server, begun)

    for _ in often:
        run(terminate())


@pytest.mark.usefixtures("nothing_left")
def test_the_second_signal_aborts(path: Path, expected: list[Exact], often: range, ended: Ended) -> None:
    async def terminate() -> None:
        async with site(path, expected) as running:
            engines = running.server.children()
            waiting = asyncio.create_task(running.complete("sleep:1", max_tokens=200))
            async with running.streaming("sleep:0.02") as events:
                os.kill(running.pid, signal.SIGTERM)
                await anext(events)
                os.kill(running.pid, signal.SIGTERM)
                begun = time.monotonic()
                assert "error" in [event async for event in events][-1]
            check_refusal(await waiting)
            assert await asyncio.to_thread(running.server.process.wait, 20) == 0
            assert gone(engines)
            ended("SIGTERM while it drains", running.server, begun)

    for _ in often:
        run(terminate())


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.usefixtures("nothing_left")
def test_the_time_to_drain_ends(path: Path, expected: list[Exact], often: range, ended: Ended) -> None:
    async def terminate() -> None:
        async with site(path, expected, "--drain-time", "0.5") as running:
            engines = running.server.children()
            async with running.streaming("sleep:0.05") as events:
                os.kill(running.pid, signal.SIGTERM)
                begun = time.monotonic()
                assert "error" in [event async for event in events][-1]
            assert await asyncio.to_thread(running.server.process.wait, 20) == 0
            assert gone(engines)
            ended("SIGTERM, and requests outlast the time to drain", running.server, begun)

    for _ in often:
        run(terminate())


@pytest.mark.usefixtures("nothing_left")
def test_a_signal_while_the_engine_is_started_again(
    path: Path, expected: list[Exact], times: range, ended: Ended
) -> None:
    async def terminate() -> None:
        async with site(path, expected) as running:
            os.kill(running.engine, signal.SIGKILL)
            await asyncio.sleep(0.05)
            engines = running.server.children()
            os.kill(running.pid, signal.SIGTERM)
            begun = time.monotonic()
            assert await asyncio.to_thread(running.server.process.wait, 20) == 0
            assert gone(engines)
            ended("SIGTERM while the engine is started again", running.server, begun)

    for _ in times:
        run(terminate())


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_starts(path: Path, number: int, soak: bool, tmp_path: Path, figures: dict[str, Any]) -> None:
    for delay in [0.05, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5] if soak else [0.4]:
        with (tmp_path / "log").open("w+b") as log:
            # A test run in a shell's background ignores SIGINT, and so would its children.
            process = subprocess.Popen(
                FaultyServer(path).arguments,
                stdout=log,
                stderr=log,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
            try:
                time.sleep(delay)
                engines = children_of(process.pid)
                process.send_signal(number)
                begun = time.monotonic()
                process.wait(20)
            finally:
                process.kill()
                process.wait()
        assert gone(engines)
        note(figures, f"{signal.Signals(number).name} while it starts", ended=time.monotonic() - begun)


@pytest.mark.usefixtures("nothing_left")
def test_a_server_that_is_killed_takes_its_engine_with_it(
    path: Path, expected: list[Exact], often: range, figures: dict[str, Any]
) -> None:
    async def kill() -> None:
        async with site(path, expected) as running:
            engines = running.server.children()
            async with running.streaming("sleep:0.02"):
                os.kill(running.pid, signal.SIGKILL)
                begun = time.monotonic()
                assert await asyncio.to_thread(gone, engines)
                note(figures, "SIGKILL of the server", ended=time.monotonic() - begun)

    for _ in often:
        with suppress(httpx.HTTPError):
            run(kill())


def test_an_engine_that_is_lost_too_often_is_given_up_with_a_reason(
    path: Path, expected: list[Exact], often: range, figures: dict[str, Any]
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
            note(figures, "the engine is lost too often")

    for _ in often:
        run(lose())
