"""ServerState: what the parts of one server share. It belongs to its event loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import time
from typing import TYPE_CHECKING

from starlette.requests import Request

from pellucid.server.admission import Admission
from pellucid.server.background import Background
from pellucid.server.keys import KeyRing
from pellucid.server.metrics import Metrics
from pellucid.server.origins import Origins
from pellucid.server.response_store import ResponseStore
from pellucid.server.settings import ServerSettings

if TYPE_CHECKING:
    from pellucid.server.registry import ModelRegistry
    from pellucid.server.tracing import Tracing


@dataclass
class ServerState:
    """`draining`: the server is being stopped, and takes no new requests. `num_unfinished` counts the requests that
    were let in and are not answered to the end. `started` is Unix time."""

    registry: ModelRegistry
    settings: ServerSettings
    keys: KeyRing
    origins: Origins
    admission: Admission
    metrics: Metrics
    tracing: Tracing | None = None
    responses: ResponseStore = field(default_factory=ResponseStore)
    background: Background = field(init=False)
    draining: bool = False
    num_unfinished: int = 0
    started: int = field(default_factory=lambda: int(time()))

    def __post_init__(self) -> None:
        self.background = Background(self.responses)

    @contextmanager
    def request(self) -> Iterator[None]:
        """One of the unfinished ones."""
        self.num_unfinished += 1
        try:
            yield
        finally:
            self.num_unfinished -= 1


def state_of(request: Request) -> ServerState:
    state: ServerState = request.app.state.server
    return state
