"""Supervisor: one engine process kept alive. Spawned, watched by its heartbeats, killed when it hangs, started again.

    loading ──▶ ready ⇄ stalled          "stalled": there is work, and no step has ended for a while
       │          │        │
       ▼          ▼        ▼
     failed ◀── restarting (back to ready)        failed: it cannot be loaded, or was lost too often
    closed: from anywhere, by `close`

Time is counted in heartbeats missed by a loop that runs, never by the clock: a machine that was suspended, a clock that
was set and a busy front are not taken for a dead engine.
"""

from __future__ import annotations

import asyncio
import logging
import math
import signal
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal, Protocol

from pellucid.errors import EngineFailed, PellucidError
from pellucid.server.channel import Channel, encode, frame
from pellucid.server.logs import LogFormat
from pellucid.server.messages import LOADING, Answer, Event, Failed, Heartbeat, Load, ModelInfo, Ready, Stats, raised
from pellucid.server.spawn import ENGINE_COMMAND, EngineChild, spawn

logger = logging.getLogger(__name__)

State = Literal["loading", "ready", "stalled", "restarting", "failed", "closed"]


@dataclass(frozen=True)
class Policy:
    """When an engine counts as stalled, hung or lost for good. Times in seconds.

    silent_after: without a heartbeat, after which the process is killed (stopped, or starved of a core).
    absent_after: the same for the first heartbeat of a process, before which it starts Python.
    stalled_after: with work and without a step, after which the state is "stalled": nobody should send it more.
    hung_after: the same, after which the process is killed.
    max_crashes, crash_window: so many losses within so long make the state "failed".
    restart_delay: before the second restart in a row, doubled for each further one up to 5 s; the first is at once.
    """

    heartbeat_interval: float = 0.25
    silent_after: float = 10.0
    absent_after: float = 60.0
    stalled_after: float = 30.0
    hung_after: float = 300.0
    max_crashes: int = 5
    crash_window: float = 60.0
    restart_delay: float = 0.25


class Listener(Protocol):
    def engine_ready(self) -> None:
        """A new engine takes commands through `post`."""

    def engine_lost(self, begun: Collection[int] = ()) -> None:
        """What was posted will not be answered; `begun` are calls that it had begun to compute, among others.

        Another engine may follow (`state` says so).
        """

    def engine_answered(self, answer: Answer) -> None: ...


class Supervisor:
    """Owns the process of one model. All of it belongs to one event loop, except `start`."""

    def __init__(
        self,
        name: str,
        settings: dict[str, Any],
        listener: Listener,
        *,
        policy: Policy | None = None,
        command: Sequence[str] = ENGINE_COMMAND,
        log_format: LogFormat = "text",
    ) -> None:
        self.name = name
        self.policy = policy or Policy()
        self.state: State = "loading"
        self.info: ModelInfo | None = None
        self.stats = Stats()
        self.failure: PellucidError | None = None
        self.num_restarts = 0
        self._settings = settings
        self._listener = listener
        self._command = tuple(command)
        self._log_format = log_format
        self._child: EngineChild | None = None
        self._channel: Channel[Event] | None = None
        self._stats_before = Stats()
        self._crashes: deque[float] = deque()
        self._missed_beats = 0
        self._heard = False  # from the present process
        self._reason = ""
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lost_task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the process and have it load; needs no event loop. Raises EngineFailed if that cannot be done."""
        if self._child is not None:
            return
        try:
            self._child = spawn(self._command)
            load = Load(self._settings, self.policy.heartbeat_interval, self._log_format)
            self._child.end.sendall(frame([encode(load)]))
        except OSError as error:
            self._discard()
            raise EngineFailed(f"the engine of {self.name} cannot be started: {error.strerror or error}") from error

    async def attach(self) -> None:
        """Watch the process from this loop on, and start it if `start` was not called. Raises EngineFailed."""
        if self._channel is not None:
            return
        self.start()
        await self._open_channel()
        self._spawn_task(self._watch())

    async def ready(self) -> None:
        """Wait until the engine has been loaded. Raises what went wrong when it never will be."""
        while self.state in ("loading", "restarting"):
            self._changed.clear()
            await self._changed.wait()
        if self.failure is not None:
            raise self.failure

    def post(self, encoded: bytes) -> None:
        if self._channel is not None:
            self._channel.post(encoded)

    @property
    def takes_commands(self) -> bool:
        return self.state in ("ready", "stalled")

    @property
    def retry_after(self) -> int:
        """Seconds that a restart takes, about."""
        return math.ceil((self.info.load_seconds if self.info else 1.0) + 0.5)

    async def close(self) -> None:
        """End the process. What was posted will not be answered. Twice is fine."""
        if self.state == "closed":
            return
        self._become("closed")
        for task in list(self._tasks):
            task.cancel()
        child, self._child = self._child, None
        if self._channel is not None:
            self._channel.abort()
        elif child is not None:
            child.end.close()
        self._listener.engine_lost()
        if child is not None:
            await asyncio.to_thread(child.kill)

    def kill(self) -> None:
        """End the process without an event loop."""
        self.state = "closed"
        self._discard()

    def _discard(self) -> None:
        if self._child is not None:
            self._child.end.close()
            self._child.kill()
            self._child = None

    async def _open_channel(self) -> None:
        assert self._child is not None
        channel: Channel[Event] = Channel(Event, self._on_events, lambda: self._on_closed(channel))
        self._channel = channel
        self._missed_beats = 0
        self._heard = False
        await channel.open(self._child.end)

    def _on_events(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Heartbeat):
                self._missed_beats = 0
                self._heard = True
                self.stats = event.stats.after(self._stats_before)
                self._judge(event.stats.seconds_without_step)
            elif isinstance(event, Ready):
                self.info = event.info
                self._become("ready")
                self._listener.engine_ready()
            elif isinstance(event, Failed) and event.call == LOADING:
                self._reason = event.message
                if self.info is None:  # it never came up, and trying again would not change that
                    self.failure = raised(event)
            else:
                self._listener.engine_answered(event)

    def _judge(self, seconds_without_step: float) -> None:
        if seconds_without_step > self.policy.hung_after:
            self._kill(f"no step has ended for {seconds_without_step:.0f} s")
        elif self.takes_commands:
            self._become("stalled" if seconds_without_step > self.policy.stalled_after else "ready")

    async def _watch(self) -> None:
        """Count the heartbeats that do not come."""
        while True:
            await asyncio.sleep(self.policy.heartbeat_interval)
            if self.state in ("failed", "closed") or self._channel is None or self._channel.is_closed:
                continue
            self._missed_beats += 1
            silence = self._missed_beats * self.policy.heartbeat_interval
            if silence > (self.policy.silent_after if self._heard else self.policy.absent_after):
                self._kill(f"it has given no sign of life for {silence:.0f} s")
            elif silence > self.policy.silent_after / 2 and self.state == "ready":
                self._become("stalled")

    def _kill(self, reason: str) -> None:
        logger.error("the engine of %s is killed: %s", self.name, reason)
        self._reason = reason
        if self._child is not None:
            with suppress(OSError):
                self._child.process.kill()

    def _on_closed(self, channel: Channel[Event]) -> None:
        if self.state == "closed" or channel is not self._channel:
            return
        self._spawn_task(self._restart())

    async def _restart(self) -> None:
        """Another process in place of the lost one, unless it is lost too often."""
        child, self._child = self._child, None
        assert child is not None
        self._become("loading" if self.info is None else "restarting")
        await asyncio.to_thread(child.kill)
        begun = child.begun.calls()
        reason = self._reason or _how_it_ended(child.process.returncode)
        self._reason = ""
        self._stats_before = self.stats
        self.stats = Stats().after(self._stats_before)
        while not self._gives_up(reason):
            self._listener.engine_lost(begun)
            if len(self._crashes) > 1:
                await asyncio.sleep(min(5.0, self.policy.restart_delay * 2 ** min(10, len(self._crashes) - 2)))
            self.num_restarts += 1
            try:
                self.start()
                await self._open_channel()
                return
            except (EngineFailed, OSError) as error:
                reason = str(error)
        self._become("failed")
        self._listener.engine_lost()

    def _gives_up(self, reason: str) -> bool:
        """Note a loss; whether it was the last one allowed, or trying again is of no use."""
        logger.error("the engine of %s was lost (%s)", self.name, reason)
        self._crashes.append(monotonic())
        while monotonic() - self._crashes[0] > self.policy.crash_window:
            self._crashes.popleft()
        if self.failure is None and len(self._crashes) >= self.policy.max_crashes:
            self.failure = EngineFailed(
                f"the engine of {self.name} was lost {len(self._crashes)} times within "
                f"{self.policy.crash_window:g} s, last because of this: {reason}"
            )
        return self.failure is not None

    def _become(self, state: State) -> None:
        if state != self.state:
            log = logger.warning if state in ("stalled", "restarting", "failed") else logger.info
            log("%s is %s", self.name, state)
            self.state = state
        self._changed.set()

    def _spawn_task(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _how_it_ended(code: int) -> str:
    if code < 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
        return f"killed by signal {-code}"
    return f"it ended with status {code}"
