"""Background: responses that nobody waits for. They are computed like any other, and asked for by their id."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import msgspec

from pellucid.server.boundary import Call
from pellucid.server.errors import public_error
from pellucid.server.response_store import ResponseStore, StoredResponse

_log = logging.getLogger("pellucid.server")


@dataclass(frozen=True)
class Running:
    """A response that has not ended, whose it is, and its input as JSON text."""

    owner: str
    response: dict[str, Any]
    items: bytes
    work: asyncio.Task[Any]
    ended: asyncio.Task[None]


class Background:
    """What runs, and whose it is. What has ended is in the store, however it ended.

    How many there may be is limited where they are computed: by the queue, and by the engine's batch.
    """

    def __init__(self, store: ResponseStore) -> None:
        self._store = store
        self._running: dict[str, Running] = {}

    async def start(
        self, call: Call, response: dict[str, Any], items: bytes, work: Coroutine[Any, Any, object]
    ) -> None:
        """`work` computes `response` and stores it; `items` is its input, which is stored if that fails.

        What the caller's request holds (its place among those of a key) is held until the end. Raises what `work`
        raises at once: a full queue refuses it.
        """
        task = asyncio.create_task(work)
        await asyncio.sleep(0)  # it has asked for its place in the queue
        if task.done():
            task.result()
        ended = asyncio.create_task(self._follow(call, response, items, task))
        self._running[response["id"]] = Running(call.tenant, response, items, task, ended)

    def get(self, owner: str, response_id: str) -> Running | None:
        """The response, if it is one of this owner's that have not ended."""
        found = self._running.get(response_id)
        return found if found is not None and found.owner == owner else None

    async def cancel(self, owner: str, response_id: str) -> None:
        """Returns when it has ended, and at once where there is nothing to cancel."""
        if (running := self.get(owner, response_id)) is not None:
            running.work.cancel()
            await asyncio.shield(running.ended)

    def cancel_all(self) -> None:
        for running in self._running.values():
            running.work.cancel()

    async def _follow(self, call: Call, response: dict[str, Any], items: bytes, work: asyncio.Task[Any]) -> None:
        with call.while_it_lasts.pop_all():
            await asyncio.wait([work])
        status, id = "ended", response["id"]
        del self._running[id]
        if work.cancelled():
            status = "cancelled"
            self._keep(call, {**response, "status": status}, items)
        elif (error := work.exception()) is not None:
            status = "failed"
            told = public_error(error if isinstance(error, Exception) else RuntimeError(error), call.request_id)
            if told is not error:
                _log.error("a request failed", exc_info=error, extra={"fields": {"request_id": call.request_id}})
            said = {"code": "server_error", "message": str(told)}
            self._keep(call, {**response, "status": status, "error": said}, items)
        fields = {"request_id": call.request_id, "response": id, "status": status, **call.notes}
        _log.info("a background response ended", extra={"fields": fields})

    def _keep(self, call: Call, response: dict[str, Any], items: bytes) -> None:
        self._store.add(call.tenant, response["id"], StoredResponse(msgspec.json.encode(response), None, items))
