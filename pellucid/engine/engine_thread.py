"""EngineThread: an Engine in a thread of its own, so that callers who must not wait (an event loop) can share it.

What may not enter here: asyncio (async_engine.py), and what a step does (engine.py).
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Protocol, TypeVar

from pellucid.engine.engine import Engine
from pellucid.engine.request import Request
from pellucid.engine.stats import EngineStats
from pellucid.errors import ExecutorError, InvalidRequest, PellucidError

logger = logging.getLogger(__name__)

STOCK_INTERVAL = 0.1

_T = TypeVar("_T")


class Listener(Protocol):
    """Is told, in the engine's thread, how requests get on."""

    def begin(self, request: Request) -> None:
        """Before the first step of `request`."""

    def progress(self, changed: Sequence[Request]) -> None:
        """After a step: these requests got a token or ended."""

    def stopped(self, error: str | None) -> None:
        """No step will follow. The books are closed: only what requests say of themselves may be read."""


@dataclass(frozen=True)
class StepProgress:
    """What the engine's thread wrote down between two steps, at most `STOCK_INTERVAL` ago or when it had nothing to do.

    `seconds_without_step` is of now: for so long there has been work and no step has ended; 0 without work.
    """

    stats: EngineStats
    seconds_without_step: float = 0.0


class EngineThread:
    """Steps the engine while it has work, sleeps while it has none.

    The native step runs without the GIL, so other threads run meanwhile. They reach the engine through `submit` only.
    """

    def __init__(self, engine: Engine, listener: Listener) -> None:
        self._engine = engine
        self._listener = listener
        engine.on_begin = listener.begin
        self._commands: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._failure: str | None = None
        self._working_since: float | None = (
            None  # the end of the last step, or the beginning of work; None without work
        )
        self._take_stock(monotonic())
        self._thread = threading.Thread(target=self._run, name="pellucid-engine", daemon=True)
        self._thread.start()

    def submit(self, command: Callable[[], _T]) -> Future[_T]:
        """Have `command` run between two steps, after those submitted before it; its result or error as a future.

        Raises InvalidRequest when the engine has been stopped, ExecutorError when it has failed.
        """
        future: Future[_T] = Future()
        with self._changed:
            if self._closed:
                raise self._refusal()
            self._commands.append((future, command))
            self._changed.notify()
        return future

    @property
    def progress(self) -> StepProgress:
        """Any thread may ask."""
        since = self._working_since
        return replace(self._stock, seconds_without_step=0.0 if since is None else monotonic() - since)

    @property
    def failure(self) -> str | None:
        """What made the thread stop for ever, if something did: the engine cannot be trusted after it."""
        return self._failure

    def stop(self) -> None:
        """End every request with "abort" and the thread with them; returns when both are done. Twice is fine."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._run_commands()
                changed = self._engine.step()
                self._working_since = now = monotonic()
                if now > self._stock_due:
                    self._take_stock(now)
                if changed:
                    self._listener.progress(changed)
                if not self._engine.has_unfinished:  # readers have their last tokens: there is time for it
                    self._engine.cache.check(idle=True)
            self._engine.abort(list(self._engine.scheduler))
        except BaseException as error:
            logger.exception("the engine failed")
            self._failure = f"the engine failed ({type(error).__name__}) and has stopped; the log has the details"
        with self._changed:
            self._closed = True
            left = list(self._commands)
            self._commands.clear()
        self._listener.stopped(self._failure)
        for future, _ in left:
            if future.set_running_or_notify_cancel():
                future.set_exception(self._refusal())

    def _refusal(self) -> PellucidError:
        return ExecutorError(self._failure) if self._failure else InvalidRequest("this AsyncLLM is closed")

    def _wait_for_work(self) -> bool:
        """False when it is time to stop."""
        with self._changed:
            while not (self._commands or self._closed or self._engine.has_unfinished):
                self._working_since = None
                self._take_stock(monotonic())
                self._changed.wait()
            self._working_since = self._working_since or monotonic()
            return not self._closed

    def _take_stock(self, now: float) -> None:
        """In the engine's thread, between two steps: nobody else may look into the scheduler and the cache."""
        self._stock = StepProgress(self._engine.stats())
        self._stock_due = now + STOCK_INTERVAL

    def _run_commands(self) -> None:
        while self._commands:
            future, command = self._commands.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(command())
            except Exception as error:
                future.set_exception(error)
