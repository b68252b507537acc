"""Admission: how many requests may wait for the engine. The rest is refused at once, with the time to come back.

A request waits from its arrival until its first token. It counts with its tokens: those of its prompt, estimated from
its length until the engine has counted them, and the most that it may be answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from pellucid.server.errors import HttpError

WINDOW = 30.0  # seconds over which the drain rate is measured
LONGEST_WAIT = 120.0


class Waiting:
    """One request in the queue."""

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens
        self.is_waiting = True


class Admission:
    """The book-keeping of one server's queue; used by its event loop alone."""

    def __init__(self, max_requests: int, max_tokens: int, *, clock: Callable[[], float] = monotonic) -> None:
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self._clock = clock
        self._started: deque[float] = deque(maxlen=4096)  # when requests left the queue, in the window
        self._since = clock()
        self.num_requests = 0
        self.num_arriving = 0
        self.num_tokens = 0

    @contextmanager
    def queue(self, num_tokens: int) -> Iterator[Waiting]:
        """A place in the queue until `started`, or the end. Raises HttpError, 429, if there is none.

        A request that finds the queue empty is always let in, however long it is: the engine says whether it fits.
        """
        self.refuse_when_full()
        if self.num_requests and self.num_tokens + num_tokens > self._max_tokens:
            raise self._full(f"requests with {self.num_tokens:,} tokens are waiting")
        waiting = Waiting(num_tokens)
        self.num_requests += 1
        self.num_tokens += num_tokens
        try:
            yield waiting
        finally:
            self._leave(waiting)

    def refuse_when_full(self) -> None:
        """Raises HttpError, 429, if there is no place for any request: asked before a body is read."""
        num_requests = self.num_requests + self.num_arriving
        if num_requests >= self._max_requests:
            raise self._full(f"{num_requests:,} requests are waiting")

    @contextmanager
    def arriving(self) -> Iterator[None]:
        """Keep a place from when a body is there until `queue` is asked: of a crowd that comes at once, those for whom
        there is none need not wait until the others' bodies are understood."""
        self.num_arriving += 1
        try:
            yield
        finally:
            self.num_arriving -= 1

    def started(self, waiting: Waiting) -> None:
        """The request has its first token."""
        if waiting.is_waiting:
            self._leave(waiting)
            now = self._clock()
            if not self._started:
                self._since = max(self._since, now - WINDOW)
            self._started.append(now)

    def _leave(self, waiting: Waiting) -> None:
        if waiting.is_waiting:
            waiting.is_waiting = False
            self.num_requests -= 1
            self.num_tokens -= waiting.num_tokens

    def _full(self, what: str) -> HttpError:
        return HttpError(
            429, "server_overloaded", f"the server is busy: {what}; try again later", retry_after=self.wait()
        )

    def wait(self) -> float:
        """Seconds until the queue will have drained by half, at the rate of the last half minute."""
        now = self._clock()
        while self._started and self._started[0] < now - WINDOW:
            self._since = self._started.popleft()
        if not self._started:
            return LONGEST_WAIT / 4
        rate = len(self._started) / max(now - max(self._since, now - WINDOW), 1e-3)
        return min(max(1.0, self.num_requests / 2 / rate), LONGEST_WAIT)
