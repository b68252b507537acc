"""Reading prompts instead of answering them: any number of readouts through one engine, so many at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from pellucid.engine.engine import Engine
from pellucid.engine.readout import Readout
from pellucid.engine.request import Request
from pellucid.errors import ExecutorError

Reading = tuple[Sequence[int], Readout]
"""Token ids, and what is to be read off them."""


class Reader:
    """Runs readouts on an engine that others may use, too.

    `drive(turn)` calls `turn` between two steps of the engine and sees to it that a step follows.
    """

    def __init__(self, engine: Engine, drive: Callable[[Callable[[], None]], None], *, max_queued: int) -> None:
        self.engine = engine
        self._drive = drive
        self.max_queued = max_queued

    def read(self, readings: Iterable[Reading]) -> list[Request]:
        """Compute them all; their requests, in order. At most `max_queued` are in the engine at a time.

        Raises what `Engine.validate` raises, and ExecutorError when one fails; the others are ended then.
        """
        upcoming = iter(readings)
        requests: list[Request] = []
        running: list[Request] = []

        def turn() -> None:
            for request in running:
                if request.finish_reason not in (None, "stop"):
                    reason = request.error or "the model was closed while it was being computed"
                    raise ExecutorError(f"text {requests.index(request)} could not be read: {reason}")
            running[:] = [request for request in running if request.finish_reason is None]
            for token_ids, readout in islice(upcoming, self.max_queued - len(running)):
                request = self.engine.add_readout(token_ids, readout)
                requests.append(request)
                running.append(request)

        try:
            self._drive(turn)
            while running:
                self._drive(turn)
        finally:
            if running:
                self._drive(lambda: self.engine.abort(running))
        return requests
