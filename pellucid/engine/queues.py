"""Queues: every request that does not run, by what it waits for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pellucid.engine.request import Request
from pellucid.engine.waiting import TenantShares, WaitingQueue


class Queues:
    """`waiting` could run now. The others wait for a grammar, or for the prompt that their leader is computing.

    Answers after the first to one prompt follow the first, their leader, until its prompt is computed; when it is gone
    or preempted before that, they go on by themselves.
    """

    def __init__(self, shares: TenantShares) -> None:
        self.waiting = WaitingQueue(shares)
        self._followers: dict[Request, list[Request]] = {}
        self._unready: dict[Request, None] = {}

    def __len__(self) -> int:
        return len(self.waiting) + sum(map(len, self._followers.values())) + len(self._unready)

    def __iter__(self) -> Iterator[Request]:
        yield from self.waiting
        for followers in self._followers.values():
            yield from followers
        yield from self._unready

    @property
    def unready(self) -> Sequence[Request]:
        """Those that wait for a grammar."""
        return tuple(self._unready)

    def add(self, request: Request) -> None:
        if request.is_ready:
            self._enqueue(request)
        else:
            self._unready[request] = None

    def move_ready(self) -> None:
        """Let those go on whose grammar has been compiled."""
        for request in [r for r in self._unready if r.is_ready]:
            del self._unready[request]
            self._enqueue(request)

    def remove(self, request: Request) -> bool:
        """Forget a request; False if it is not here."""
        if request in self._unready:
            del self._unready[request]
        elif request in self.waiting:
            self.waiting.remove(request)
        elif request.leader is not None and request in self._followers.get(request.leader, ()):
            self._followers[request.leader].remove(request)
        else:
            return False
        return True

    def release_followers(self, leader: Request) -> None:
        for request in reversed(self._followers.pop(leader, ())):
            self.waiting.prepend(request)

    def _enqueue(self, request: Request) -> None:
        leader = request.leader
        if leader is not None and leader.keeps_blocks:
            self.waiting.prepend(request)  # it goes on with what has begun
        elif leader is None or leader.finish_reason or leader.num_preemptions or leader.has_prompt:
            self.waiting.append(request)
        else:
            self._followers.setdefault(leader, []).append(request)
