"""Supervisor: an engine that is killed, crashes, stops or hangs costs its running requests an error and nobody else."""

import asyncio
import os
import signal
import time
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from msgspec import structs
from support.engines import QUICK, SETTINGS, asked, children, open_files, serving, until, whole
from support.faulty_engine import command
from support.tiny_model import write_tiny_model

from pellucid import LLM
from pellucid.errors import EngineFailed, EngineRestarting, EngineUnavailable
from pellucid.server.messages import Started
from pellucid.server.model_client import ModelClient

T = TypeVar("T")
LONG = {"max_tokens": 200}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def expected(path: Path) -> dict[str, Any]:
    """Answers by prompt, of requests with 30 tokens."""
    with LLM(str(path), **SETTINGS) as llm:
        return {name: llm.generate(name, asked(name).params)[0].outputs for name in ("before", "queued", "after")}


@pytest.fixture(autouse=True)
def nothing_left() -> Any:
    before, files = children(), open_files()
    yield
    assert children() == before
    assert open_files() == files


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 60))


def engine_of(client: ModelClient) -> int:
    child = client._supervisor._child
    assert child is not None
    return child.process.pid


async def begun(client: ModelClient, **params: Any) -> tuple[asyncio.Task[Any], asyncio.Event]:
    """A streamed request that has its first token."""
    started = asyncio.Event()

    async def read() -> None:
        async for answer in client.generate(asked(**params)):
            if isinstance(answer, Started):
                started.set()

    task = asyncio.ensure_future(read())
    await started.wait()
    return task, started


@pytest.mark.parametrize("how", ["SIGKILL", "crash", "SIGSTOP"])
def test_a_lost_engine_costs_started_requests_a_503_and_queued_ones_nothing(
    path: Path, expected: dict[str, Any], how: str
) -> None:
    async def lose() -> None:
        policy = replace(QUICK, silent_after=3.0) if how == "SIGSTOP" else QUICK
        async with serving(path, policy=policy, max_num_seqs=1) as client:
            assert (await whole(client, asked("before"))).outputs == expected["before"]
            totals = client.stats
            inside = how == "crash"
            running, _ = await begun(client, fault=how if inside else "sleep:0.02", **LONG)
            queued = asyncio.ensure_future(whole(client, asked("queued")))
            await asyncio.sleep(0.05)
            lost_at = asyncio.get_running_loop().time()
            if not inside:
                os.kill(engine_of(client), getattr(signal, how))
            with pytest.raises(EngineRestarting) as caught:
                await running
            assert (caught.value.http_status, caught.value.code) == (503, "engine_restarting")
            assert caught.value.retry_after is not None
            assert 1 <= caught.value.retry_after <= 10
            assert (await queued).outputs == expected["queued"]
            assert client.state == "ready"
            assert client.num_restarts == 1
            recovered = asyncio.get_running_loop().time() - lost_at
            assert recovered < 30, "generous: the machine may be busy"
            assert (await whole(client, asked("after"))).outputs == expected["after"]
            await until(lambda: client.stats.generation_tokens_total >= totals.generation_tokens_total + 60)
            assert client.stats.steps_total > totals.steps_total, "totals go on counting"

    run(lose())


@pytest.mark.parametrize("many", [{}, {"n": 2}, {"best_of": 2}], ids=str)
def test_a_request_that_kills_engines_kills_one(path: Path, expected: dict[str, Any], many: dict[str, Any]) -> None:
    """Its first step does, so that nobody was told that it had begun. What merely waited is asked again.

    Both wait behind a slow one until both are queued: prompts are read by several threads, in any order.
    """

    async def poison() -> None:
        async with serving(path, max_num_seqs=1) as client:
            slow = asked("hold", fault="sleep:0.02", **LONG)
            poisonous = structs.replace(asked("y", fault="early-crash", stream=False, **many), priority=1)
            innocent = structs.replace(asked("queued"), priority=2)
            holder = asyncio.ensure_future(whole(client, slow))
            await until(lambda: client.stats.num_running == 1)
            killer, queued = [asyncio.ensure_future(whole(client, r)) for r in (poisonous, innocent)]
            await until(lambda: client.stats.num_waiting == max(many.values(), default=1) + 1)
            holder.cancel()
            with pytest.raises(EngineRestarting):
                await killer
            assert (await queued).outputs == expected["queued"]
            assert (await whole(client, asked("after"))).outputs == expected["after"]
            assert client.num_restarts == 1

    run(poison())


def test_a_request_whose_text_kills_engines_kills_two(path: Path, expected: dict[str, Any]) -> None:
    """It is not known what was looked at when one that has not begun is lost: it is asked again, once."""

    async def poison() -> None:
        async with serving(path) as client:
            with pytest.raises(EngineRestarting):
                await whole(client, asked("fault:tokenizer-crash"))
            assert (await whole(client, asked("after"))).outputs == expected["after"]
            assert client.num_restarts == 2

    run(poison())


def test_calls_made_while_an_engine_is_started_again_wait_for_it(path: Path, expected: dict[str, Any]) -> None:
    async def wait() -> None:
        async with serving(path) as client:
            os.kill(engine_of(client), signal.SIGKILL)
            await until(lambda: client.state == "restarting")
            assert (await whole(client, asked("after"))).outputs == expected["after"]
            assert await client.tokenize("ab")

    run(wait())


def test_an_engine_that_is_lost_again_and_again_is_given_up(path: Path) -> None:
    async def lose() -> None:
        async with serving(path, policy=replace(QUICK, max_crashes=3, restart_delay=0.01)) as client:
            for restarts in range(1, 3):
                os.kill(engine_of(client), signal.SIGKILL)
                await until(lambda restarts=restarts: client.num_restarts == restarts and client.state == "ready")  # type: ignore[misc]
            waiting = asyncio.ensure_future(whole(client, asked(**LONG)))
            await asyncio.sleep(0)
            os.kill(engine_of(client), signal.SIGKILL)
            with pytest.raises(EngineUnavailable):
                await waiting
            await until(lambda: client.state == "failed")
            with pytest.raises(EngineFailed, match=r"lost 3 times.*SIGKILL"):
                await client.tokenize("x")
            with pytest.raises(EngineFailed):
                await client.ready()

    run(lose())


def test_one_that_dies_while_loading_is_given_up_too(path: Path) -> None:
    async def load() -> None:
        settings = {"model": str(path), **SETTINGS}
        policy = replace(QUICK, max_crashes=2, restart_delay=0.01)
        client = ModelClient("tiny", settings, policy=policy, command=command("load-crash"))
        try:
            await client.attach()
            with pytest.raises(EngineFailed, match=r"lost 2 times.*status 4"):
                await client.ready()
        finally:
            await client.close()

    run(load())


def test_a_command_that_does_not_exist_is_an_error_at_once(path: Path) -> None:
    client = ModelClient("tiny", {"model": str(path)}, command=("/nonexistent/python",))
    with pytest.raises(EngineFailed, match="cannot be started"):
        client.start()


def test_work_without_steps_is_stalled_and_ready_again_when_it_moves(path: Path, expected: dict[str, Any]) -> None:
    async def stall() -> None:
        async with serving(path) as client:
            asleep = asyncio.ensure_future(whole(client, asked("x", fault="sleep:1", max_tokens=4)))
            await until(lambda: client.state == "stalled")
            beside = asyncio.ensure_future(whole(client, asked("queued")))
            await asleep
            assert (await beside).outputs == expected["queued"]
            await until(lambda: client.state == "ready")
            assert client.num_restarts == 0

    run(stall())


def test_long_work_with_steps_and_no_work_at_all_are_not_stalled(path: Path) -> None:
    async def idle_and_busy() -> None:
        states = set()
        policy = replace(QUICK, stalled_after=1.0)
        async with serving(path, policy=policy) as client:
            loop = asyncio.get_running_loop()
            long = asked("z" * 200, fault="sleep:0.1", max_tokens=9)
            work = asyncio.gather(*(whole(client, long) for _ in "abc"))
            while not work.done():
                states.add(client.state)
                await asyncio.sleep(0.01)
            await work
            end = loop.time() + 1.5 * policy.stalled_after
            while loop.time() < end:
                states.add(client.state)
                await asyncio.sleep(0.01)
        assert states == {"ready"}

    run(idle_and_busy())


def test_a_step_that_never_ends_is_killed(path: Path, expected: dict[str, Any]) -> None:
    async def hang() -> None:
        async with serving(path, policy=replace(QUICK, hung_after=0.6)) as client:
            running, _ = await begun(client, fault="sleep:60", **LONG)
            with pytest.raises(EngineRestarting):
                await running
            assert (await whole(client, asked("after"))).outputs == expected["after"]

    run(hang())


def test_a_front_that_was_busy_does_not_take_its_engine_for_dead(path: Path) -> None:
    async def block() -> None:
        async with serving(path, policy=replace(QUICK, silent_after=1.0)) as client:
            time.sleep(1.5)
            await asyncio.sleep(3 * QUICK.heartbeat_interval)
            assert client.num_restarts == 0
            assert client.state == "ready"

    run(block())


@pytest.mark.parametrize("fault", ["raise", "nan", "panic"])
def test_a_failed_step_or_request_ends_with_an_error_and_the_engine_goes_on(
    path: Path, expected: dict[str, Any], fault: str
) -> None:
    async def fail() -> None:
        async with serving(path) as client:
            if fault == "panic":  # of the thread that steps: nothing is known of its state any more
                with pytest.raises(EngineRestarting):
                    await whole(client, asked("x", fault="panic"))
            else:
                [output] = (await whole(client, asked("x", fault=fault))).outputs
                assert output.finish_reason == "error"
                assert "secret" not in (output.error or "")
            assert (await whole(client, asked("after"))).outputs == expected["after"]
            assert client.num_restarts == (fault == "panic")

    run(fail())
