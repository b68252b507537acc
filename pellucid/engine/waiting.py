"""WaitingQueue: which waiting request is tried next. Priority first, then the tenant that had least, then the order
of arrival.

Fairness is that of virtual token counters (Sheng et al. 2024, "Fairness in Serving Large Language Models"): a tenant is
charged for each token that is computed for it, and of those with something to do the one with the smallest counter goes
first. A tenant that comes, or comes back, is lifted to the virtual time (Demers et al. 1989, "Analysis and Simulation
of a Fair Queueing Algorithm"): what each of those that were there would have had by now, had they been served in equal
parts. So having been away earns nothing, and no row of newcomers, however long, keeps going before one that had more
than they: the smallest counter, which the first paper lifts to, would never rise. A cached token is charged to nobody,
and nothing is held back from a tenant while nobody else wants it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Container, Iterator

from pellucid.engine.request import Request


class TenantShares:
    """Tokens computed for each tenant, comparable between those that have unfinished requests."""

    def __init__(self) -> None:
        self._num_tokens: dict[str, float] = {}
        self._num_requests: Counter[str] = Counter()
        self._virtual_time = 0.0

    def arrive(self, tenant: str) -> None:
        """A request of `tenant` is there."""
        if not self._num_requests[tenant]:
            self._num_tokens[tenant] = max(self._virtual_time, self._num_tokens.get(tenant, 0.0))
        self._num_requests[tenant] += 1

    def leave(self, tenant: str) -> None:
        """A request of `tenant` is finished. Whoever has none left, and had no more than others, is forgotten."""
        self._num_requests[tenant] -= 1
        if not self._num_requests[tenant]:
            del self._num_requests[tenant]
            absent = self._num_tokens.keys() - self._num_requests.keys()
            for t in absent:
                if self._num_tokens[t] <= self._virtual_time:
                    del self._num_tokens[t]

    def charge(self, tenant: str, num_tokens: int) -> None:
        self._num_tokens[tenant] += num_tokens
        self._virtual_time += num_tokens / len(self._num_requests)

    def __getitem__(self, tenant: str) -> float:
        return self._num_tokens[tenant]


class WaitingQueue:
    """The requests that wait, by priority and tenant; within one tenant the first comes first."""

    def __init__(self, shares: TenantShares) -> None:
        self._shares = shares
        self._levels: dict[int, dict[str, OrderedDict[Request, None]]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Request]:
        for _, tenants in sorted(self._levels.items()):
            for queue in tenants.values():
                yield from queue

    def __contains__(self, request: Request) -> bool:
        return request in self._levels.get(request.priority, {}).get(request.tenant, ())

    def append(self, request: Request) -> None:
        """Add it behind the others of its tenant."""
        queue = self._levels.setdefault(request.priority, {}).setdefault(request.tenant, OrderedDict())
        queue[request] = None
        self._length += 1

    def prepend(self, request: Request) -> None:
        """Add it before the others of its tenant."""
        self.append(request)
        self._levels[request.priority][request.tenant].move_to_end(request, last=False)

    def remove(self, request: Request) -> None:
        tenants = self._levels[request.priority]
        del tenants[request.tenant][request]
        self._length -= 1
        if not tenants[request.tenant]:
            del tenants[request.tenant]
            if not tenants:
                del self._levels[request.priority]

    def best(self, passed: Container[Request] = ()) -> Request | None:
        """The request to try next, leaving out those in `passed`."""
        for priority in sorted(self._levels):
            heads = [
                (self._shares[tenant], head)
                for tenant, queue in self._levels[priority].items()
                if (head := next((r for r in queue if r not in passed), None)) is not None
            ]
            if heads:
                return min(heads, key=lambda entry: entry[0])[1]
        return None
