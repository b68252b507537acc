"""ResponseStore: responses that may be gone on after, in memory, each for its owner only."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from pellucid.server.errors import HttpError

MAX_RESPONSES = 1_000
MAX_NBYTES = 64 << 20


@dataclass(frozen=True)
class StoredResponse:
    """JSON texts: the response as it was sent; the messages up to and with its answer, without instructions (None if it
    has none, because it failed or was cancelled); and the items of its input."""

    body: bytes
    messages: bytes | None
    items: bytes

    @property
    def nbytes(self) -> int:
        return len(self.body) + len(self.messages or b"") + len(self.items)


@dataclass
class _Owned:
    """One owner's, the least recently used first."""

    responses: OrderedDict[str, StoredResponse] = field(default_factory=OrderedDict)
    nbytes: int = 0

    def pop(self, response_id: str) -> StoredResponse:
        found = self.responses.pop(response_id)
        self.nbytes -= found.nbytes
        return found


class ResponseStore:
    """Where there is no room, whoever has most of what is short loses what they used least recently: nobody can push
    out another's responses by storing many. A response of another owner is not found."""

    def __init__(self, max_responses: int = MAX_RESPONSES, max_nbytes: int = MAX_NBYTES) -> None:
        self.max_responses = max_responses
        self.max_nbytes = max_nbytes
        self._owners: dict[str, _Owned] = {}
        self._num = 0
        self._nbytes = 0

    def add(self, owner: str, response_id: str, response: StoredResponse) -> None:
        owned = self._owners.setdefault(owner, _Owned())
        owned.responses[response_id] = response
        owned.nbytes += response.nbytes
        self._num += 1
        self._nbytes += response.nbytes
        while self._num > self.max_responses:
            self._drop_oldest(max(self._owners, key=lambda name: len(self._owners[name].responses)))
        while self._nbytes > self.max_nbytes:
            self._drop_oldest(max(self._owners, key=lambda name: self._owners[name].nbytes))

    def get(self, owner: str, response_id: str) -> StoredResponse:
        """Raises HttpError, 404."""
        owned = self._owners.get(owner)
        if owned is None or response_id not in owned.responses:
            raise HttpError(
                404,
                "response_not_found",
                f"there is no response {response_id[:80]!r}: it was not stored, was deleted, or had to make room; "
                "send the whole conversation as input",
            )
        owned.responses.move_to_end(response_id)
        return owned.responses[response_id]

    def delete(self, owner: str, response_id: str) -> None:
        """Raises HttpError, 404."""
        self.get(owner, response_id)
        self._drop(owner, response_id)

    def _drop_oldest(self, owner: str) -> None:
        self._drop(owner, next(iter(self._owners[owner].responses)))

    def _drop(self, owner: str, response_id: str) -> None:
        dropped = self._owners[owner].pop(response_id)
        self._num -= 1
        self._nbytes -= dropped.nbytes
        if not self._owners[owner].responses:
            del self._owners[owner]
