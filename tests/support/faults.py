"""The faults that a server must survive, by name: each is done to a running `Site`, and checks what its victims got."""

from __future__ import annotations

import asyncio
import os
import resource
import select
import signal
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from support.site import Site, check_refusal


@dataclass(frozen=True)
class Fault:
    """`costs_others`: requests beside it may be refused with 503, too, because they share what was lost.

    `fails_step`: those in the same step may get a 500. `pause`: for so many seconds it lets nobody answer, by itself.
    """

    do: Callable[[Site], Awaitable[None]]
    costs_others: bool
    fails_step: bool
    pause: float


FAULTS: dict[str, Fault] = {}


def fault(
    *, costs_others: bool = False, fails_step: bool = False, pause: float = 0.0
) -> Callable[[Callable[[Site], Awaitable[None]]], None]:
    def register(do: Callable[[Site], Awaitable[None]]) -> None:
        FAULTS[do.__name__] = Fault(do, costs_others, fails_step, pause)

    return register


# ---- the engine's process


async def lose_engine(site: Site, lose: Callable[[], None]) -> None:
    """Both kinds of victims, streamed and not, have begun: both hear of it."""
    async with site.streaming("sleep:0.02") as events:
        waiting = asyncio.create_task(site.complete("sleep:0.02", max_tokens=200))
        for _ in range(3):
            await anext(events)
        lose()
        last = [event async for event in events][-1]
        assert last["error"]["code"] == "engine_restarting", last
        answer = await waiting
        if answer.status_code != 200:  # it may not have begun
            check_refusal(answer)


@fault(costs_others=True)
async def engine_killed(site: Site) -> None:
    await lose_engine(site, lambda: os.kill(site.engine, signal.SIGKILL))


@fault(costs_others=True)
async def engine_aborts(site: Site) -> None:
    await lose_engine(site, lambda: os.kill(site.engine, signal.SIGABRT))


@fault(costs_others=True)
async def engine_stopped(site: Site) -> None:
    await lose_engine(site, lambda: os.kill(site.engine, signal.SIGSTOP))


@fault(costs_others=True)
async def engine_segfaults_in_a_step(site: Site) -> None:
    check_refusal(await site.complete("crash"))


@fault(costs_others=True)
async def engine_exits_in_a_step(site: Site) -> None:
    check_refusal(await site.complete("exit"))


@fault(costs_others=True)
async def engine_panics_in_a_step(site: Site) -> None:
    check_refusal(await site.complete("panic"))


@fault(costs_others=True)
async def request_kills_every_engine(site: Site) -> None:
    check_refusal(await site.complete("early-crash"))


@fault(costs_others=True)
async def engine_killed_while_it_is_started_again(site: Site) -> None:
    before = site.engine
    os.kill(before, signal.SIGKILL)
    async with asyncio.timeout(20):
        while site.server.children() in ([before], []):
            await asyncio.sleep(0.002)
    os.kill(site.engine, signal.SIGKILL)


@fault(costs_others=True)
async def step_never_ends(site: Site) -> None:
    check_refusal(await site.complete("sleep:60"))


@fault(costs_others=True)
async def engine_writes_garbage(site: Site) -> None:
    check_refusal(await site.complete("garbage"))


@fault(costs_others=True)
async def engine_loop_is_blocked(site: Site) -> None:
    answer = await site.complete("loop:60")
    check_refusal(answer)


@fault()
async def engine_paused_for_a_moment(site: Site) -> None:
    async with site.streaming("sleep:0.01") as events:
        os.kill(site.engine, signal.SIGSTOP)
        await asyncio.sleep(0.3)
        os.kill(site.engine, signal.SIGCONT)
        assert not [event async for event in events if "error" in event]


@fault()
async def step_is_slow(site: Site) -> None:
    answer = asyncio.create_task(site.complete("sleep:0.7", max_tokens=4))
    async with asyncio.timeout(10):
        while await site.ready():  # until it is seen to be stalled
            await asyncio.sleep(0.01)
    assert (await answer).status_code == 200


# ---- one request


@fault(fails_step=True)
async def step_raises(site: Site) -> None:
    check_refusal(await site.complete("raise"), 500)


@fault(fails_step=True)
async def memory_runs_out_in_a_step(site: Site) -> None:
    check_refusal(await site.complete("memory"), 500)


@fault()
async def logits_are_nan(site: Site) -> None:
    check_refusal(await site.complete("nan"), 500)


@fault()
async def tokenizer_panics(site: Site) -> None:
    check_refusal(await site.complete(prompt="fault:tokenizer-panic"), 500)


@fault()
async def grammar_explodes(site: Site) -> None:
    answer = await site.complete(structured_outputs={"regex": "((a{1,99}){1,99}){1,99}b" * 20})
    check_refusal(answer, answer.status_code if answer.status_code in (400, 503) else 400)


# ---- the system


@fault(costs_others=True)
async def model_is_away_when_the_engine_is_started_again(site: Site) -> None:
    away = site.model.with_suffix(".away")
    site.model.rename(away)
    try:
        os.kill(site.engine, signal.SIGKILL)
        await asyncio.sleep(0.5)
        assert not await site.ready()
    finally:
        away.rename(site.model)


@contextmanager
def limited(pid: int, kind: int, limit: int) -> Iterator[None]:
    before = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, kind, before)


@fault()
async def server_has_too_many_files(site: Site) -> None:
    """It can accept nobody for a while; who is connected notices nothing."""
    connections = []
    with limited(site.pid, resource.RLIMIT_NOFILE, len(site.open_files()) + 2):
        for _ in range(8):
            connections.append(await asyncio.open_connection("127.0.0.1", site.client.base_url.port))
        await asyncio.sleep(0.2)
    for _, writer in connections:
        writer.close()


@fault()
async def engine_has_too_many_files(site: Site) -> None:
    with limited(site.engine, resource.RLIMIT_NOFILE, 3):
        assert (await site.complete()).status_code == 200


@fault()
async def nothing_can_be_written_to_files(site: Site) -> None:
    """As on a full disk. The log goes on when there is room again."""
    with limited(site.pid, resource.RLIMIT_FSIZE, 0), limited(site.engine, resource.RLIMIT_FSIZE, 0):
        known = len(site.server.log)
        assert (await site.complete()).status_code == 200
        await asyncio.sleep(0.1)
        assert len(site.server.log) == known
    async with asyncio.timeout(10):
        while "lines of the log were dropped" not in site.server.log[known:]:
            assert (await site.complete()).status_code == 200


@fault()
async def clock_jumps(site: Site) -> None:
    async with site.streaming("sleep:0.01") as events:
        for jump in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR2, signal.SIGUSR1):
            for pid in (site.pid, site.engine):
                os.kill(pid, jump)
            await anext(events)
            await asyncio.sleep(0.1)
        assert not [event async for event in events if "error" in event]


@fault(pause=2.5)
async def server_paused_for_longer_than_an_engine_may_be_silent(site: Site) -> None:
    engine = site.engine
    os.kill(site.pid, signal.SIGSTOP)
    await asyncio.sleep(2.5)
    os.kill(site.pid, signal.SIGCONT)
    await asyncio.sleep(0.2)
    assert site.engine == engine


# ---- clients


def connect(site: Site) -> socket.socket:
    """With room for little on this side."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", site.client.base_url.port))
    return connection


async def received(connection: socket.socket, pause: float = 0.0) -> bytes:
    """All that comes until the other side hangs up, a kilobyte at a time."""
    connection.setblocking(False)
    found, loop = b"", asyncio.get_running_loop()
    with suppress(ConnectionResetError):
        async with asyncio.timeout(60):
            while not found.endswith(b"\r\n0\r\n\r\n") and (data := await loop.sock_recv(connection, 1024)):
                found += data
                await asyncio.sleep(pause)
    return found


STREAM = b'{"prompt": "victim", "max_tokens": 200, "ignore_eos": true, "stream": true, "logprobs": 5, "n": 4}'
MUCH = STREAM.replace(b'"logprobs": 5, "n": 4', b'"logprobs": 20, "n": 32')
HEAD = (
    b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)


@fault()
async def client_never_reads(site: Site) -> None:
    """It is hung up on, long before all that was written for it is sent."""
    with connect(site) as connection:
        connection.sendall(HEAD % len(MUCH) + MUCH)
        poll = select.poll()
        poll.register(connection, select.POLLERR | select.POLLHUP)
        async with asyncio.timeout(60):
            while not poll.poll(0):
                await asyncio.sleep(0.05)
        assert b"[DONE]" not in await received(connection)


@fault()
async def client_reads_slowly(site: Site) -> None:
    """It gets all of it."""
    with connect(site) as connection:
        connection.sendall(HEAD % len(STREAM) + STREAM)
        assert (await received(connection, pause=0.002)).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


@fault()
async def client_vanishes(site: Site) -> None:
    """Nothing more comes over the connection, not even its end."""
    for cut, told in ((10, b" 408 "), (len(HEAD) + 20, b" 408 ")):
        with connect(site) as connection:
            connection.sendall((HEAD % len(STREAM) + STREAM)[:cut])
            assert told in await received(connection)


@fault()
async def client_resets_its_connection(site: Site) -> None:
    for cut in (10, len(HEAD), len(HEAD) + 20, 10_000):
        with connect(site) as connection:
            connection.sendall((HEAD % len(STREAM) + STREAM)[:cut])
            await asyncio.sleep(0.05)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@fault()
async def client_closes_half_a_connection(site: Site) -> None:
    for cut in (10, 10_000):
        with connect(site) as connection:
            connection.sendall((HEAD % len(STREAM) + STREAM)[:cut])
            connection.shutdown(socket.SHUT_WR)
            await asyncio.sleep(0.1)


@fault()
async def clients_send_bytes_one_at_a_time(site: Site) -> None:
    connections = [connect(site) for _ in range(20)]
    for byte in b"POST /v1":
        for connection in connections:
            with suppress(OSError):
                connection.send(bytes([byte]))
        await asyncio.sleep(0.02)
    for connection in connections:
        connection.close()


@fault()
async def clients_leave_streams(site: Site) -> None:
    for _ in range(4):
        async with site.streaming(n=4):
            pass


@fault()
async def clients_leave_while_they_wait(site: Site) -> None:
    waiting = [asyncio.create_task(site.complete("sleep:0.01", n=8, max_tokens=200)) for _ in range(8)]
    await asyncio.sleep(0.1)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
