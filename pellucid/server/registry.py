"""ModelRegistry: the models of one server by name, each behind a ModelClient, loaded and unloaded while it runs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pellucid.errors import EngineUnavailable, InvalidParameter, ModelNotFound
from pellucid.fields import show
from pellucid.server.logs import LogFormat
from pellucid.server.model_client import ModelClient
from pellucid.server.spawn import ENGINE_COMMAND
from pellucid.server.supervisor import Policy

_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclass(frozen=True)
class ServedModel:
    """A model that may be served: its name, the keyword arguments of AsyncLLM, and other names for it.

    `on_demand`: loaded by the first request for it, rather than with the server.
    """

    name: str
    settings: Mapping[str, Any]
    aliases: Sequence[str] = ()
    on_demand: bool = False


class ModelRegistry:
    """`start` (optional, before there is a loop), `attach`, then `get` for each request, `close`."""

    def __init__(
        self,
        models: Sequence[ServedModel],
        *,
        policy: Policy | None = None,
        command: Sequence[str] = ENGINE_COMMAND,
        log_format: LogFormat = "text",
    ) -> None:
        """Raises InvalidParameter for a name that cannot be one or is there twice, and for wrong settings."""
        self._models: dict[str, ServedModel] = {}
        self._names: dict[str, str] = {}  # every name and alias
        self._clients: dict[str, ModelClient] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._attaching: set[asyncio.Task[None]] = set()
        self._policy = policy
        self._command = command
        self._log_format = log_format
        for model in models:
            for name in (model.name, *model.aliases):
                if checked_name(name) in self._names:
                    raise InvalidParameter("model", f"two models have the name {show(name)}")
                self._names[name] = model.name
            self._models[model.name] = model
            client = self._new_client(model)
            if not model.on_demand:
                self._clients[model.name] = client

    @property
    def names(self) -> Mapping[str, str]:
        """Every name that may be asked for, with the name of its model."""
        return MappingProxyType(self._names)

    @property
    def clients(self) -> Mapping[str, ModelClient]:
        """Those that are loaded, or being loaded, by name."""
        return MappingProxyType(self._clients)

    def start(self) -> None:
        """Start the engines' processes, so that they load while the caller goes on. Raises EngineFailed."""
        for client in self._clients.values():
            client.start()

    async def attach(self) -> None:
        """Belong to this event loop. Returns at once, whether the models are loaded or not. Raises EngineFailed."""
        for client in self._clients.values():
            await client.attach()

    def get(self, name: str | None) -> ModelClient:
        """The model of this name; None is good enough where there is only one.

        Raises ModelNotFound, InvalidParameter for None among several, EngineUnavailable for one that is not loaded.
        """
        if name is None:
            if len(self._models) != 1:
                raise InvalidParameter("model", f"this server has several models; name one of {self._known()}")
            [name] = self._models
        name = self._known_name(name)
        if name in self._leaving:
            raise EngineUnavailable(f"{name} is being unloaded", retry_after=1)
        if name not in self._clients:
            if not self._models[name].on_demand:
                raise EngineUnavailable(f"{name} is not loaded")
            self._load(name)
        return self._clients[name]

    async def load(self, name: str) -> None:
        """Load a model again that was unloaded, or before its first request; returns when it is ready.

        Raises ModelNotFound, and what loading raises.
        """
        name = self._known_name(name)
        if name in self._leaving:
            await asyncio.shield(self._leaving[name])
        if name not in self._clients:
            self._load(name)
        await self._clients[name].ready()

    async def unload(self, name: str) -> None:
        """Free a model; returns when the requests that use it have been answered and its process is gone.

        New requests are refused meanwhile, and after it unless it is loaded on demand. Raises ModelNotFound.
        """
        name = self._known_name(name)
        if name not in self._leaving:
            client = self._clients.pop(name, None)
            if client is None:
                return
            self._leaving[name] = asyncio.get_running_loop().create_task(self._leave(name, client))
        await asyncio.shield(self._leaving[name])

    async def drained(self) -> None:
        """Wait until no model has a request."""
        await asyncio.gather(*(client.drained() for client in self._clients.values()), *self._leaving.values())

    async def close(self) -> None:
        """End all processes and every request. Twice is fine."""
        for task in [*self._attaching, *self._leaving.values()]:
            task.cancel()
        await asyncio.gather(*(client.close() for client in self._clients.values()))
        await asyncio.gather(*self._leaving.values(), return_exceptions=True)

    def kill(self) -> None:
        """`close` for a caller who has no event loop (any more)."""
        for client in self._clients.values():
            client.kill()

    def _new_client(self, model: ServedModel) -> ModelClient:
        return ModelClient(
            model.name, model.settings, policy=self._policy, command=self._command, log_format=self._log_format
        )

    def _load(self, name: str) -> None:
        client = self._clients[name] = self._new_client(self._models[name])
        task = asyncio.get_running_loop().create_task(client.attach())
        self._attaching.add(task)
        task.add_done_callback(self._attaching.discard)

    async def _leave(self, name: str, client: ModelClient) -> None:
        try:
            await client.drained()
        finally:
            await client.close()
            del self._leaving[name]

    def _known_name(self, name: str) -> str:
        if name not in self._names:
            raise ModelNotFound(f"there is no model {show(name)} here; there is {self._known()}")
        return self._names[name]

    def _known(self) -> str:
        return ", ".join(self._models)


def checked_name(name: object) -> str:
    """A model's name: 1 to 128 letters, digits, '.', '_' and '-', without '..'. Raises InvalidParameter."""
    if not isinstance(name, str) or _NAME.fullmatch(name) is None or ".." in name:
        raise InvalidParameter(
            "model", f"a model's name has 1 to 128 letters, digits, '.', '_' and '-', and no '..'; got {show(name)}"
        )
    return name
