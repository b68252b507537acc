"""The engine process: `python -m pellucid.server.engine_process FD FD`, started by spawn.py.

It serves one front over one end of a socket pair and ends with it: at the end of the channel, or, stopped as it may
be, by the signal that Linux sends when a parent dies. Signals of the terminal and of service managers are the front's
business and ignored here, so that a front can drain.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from time import monotonic

from pellucid.engine.async_engine import AsyncLLM
from pellucid.engine.results import model_receipt
from pellucid.errors import PellucidError, ResourceError
from pellucid.executors.base import BLOCK_SIZE
from pellucid.garbage import uncollected
from pellucid.server import logs
from pellucid.server.begun import BegunCalls
from pellucid.server.channel import Channel, encode
from pellucid.server.messages import LOADING, Command, Heartbeat, Load, ModelInfo, Ready, Stats, failed
from pellucid.server.session import EngineSession
from pellucid.thread_pool import started_pool

logger = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
WORK_THREADS = 2
"""For what asyncio.to_thread does: loading, then turning ids into text."""


def main(argv: list[str] | None = None) -> None:
    """Returns never: the process ends with its front."""
    arguments = sys.argv[1:] if argv is None else argv
    memory, channel = map(int, arguments[-2:])
    begun, end = BegunCalls(memory), socket.socket(fileno=channel)
    os.close(memory)
    die_with_parent()
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    asyncio.run(serve(end, begun))


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent is gone, where it can (Linux)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


async def serve(end: socket.socket, begun: BegunCalls) -> None:
    """Load what the first message says, then carry out commands until the channel is closed."""
    asyncio.get_running_loop().set_default_executor(started_pool(WORK_THREADS, "pellucid-work"))
    process = EngineProcess(begun)
    await process.channel.open(end)
    await asyncio.Event().wait()


class EngineProcess:
    """Before the model is there, commands cannot come: the front posts none until it has seen Ready."""

    def __init__(self, begun: BegunCalls) -> None:
        self._begun = begun
        self.channel: Channel[Command] = Channel(Command, self._on_commands, _leave, self._on_writable)
        self._session: EngineSession | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def _on_commands(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Load):
                logs.set_up(command.log_format)
                loop = asyncio.get_running_loop()
                self._tasks += [loop.create_task(self._load(command)), loop.create_task(self._beat(command))]
            elif self._session is not None:
                self._session.carry_out(command)

    def _on_writable(self) -> None:
        if self._session is not None:
            self._session.writable()

    async def _load(self, command: Load) -> None:
        begun = monotonic()
        try:
            llm = await asyncio.to_thread(_load, command)
        except BaseException as error:
            if not isinstance(error, PellucidError):
                logger.exception("the model cannot be loaded")
                if isinstance(error, MemoryError):
                    error = ResourceError("there is not enough memory for the model")
                else:
                    error = PellucidError(f"loading failed ({type(error).__name__}); the log has the details")
            self.channel.post(encode(failed(LOADING, error)))
            self.channel.close()
            return
        self._session = EngineSession(llm, self.channel, self._begun)
        self.channel.post(encode(Ready(model_info(llm, monotonic() - begun))))
        with suppress(PellucidError):  # a broken template is the business of the chats that need it
            await asyncio.to_thread(lambda: llm.model.chat_template)  # the first one need not wait for it

    async def _beat(self, command: Load) -> None:
        while True:
            if self._session is not None and self._session.is_over:
                logging.shutdown()
                os._exit(1)
            stats = Stats() if self._session is None else self._session.stats
            self.channel.post(encode(Heartbeat(stats)))
            await asyncio.sleep(command.heartbeat_interval)


def _load(command: Load) -> AsyncLLM:
    with uncollected():
        return AsyncLLM(**command.settings)


def model_info(llm: AsyncLLM, load_seconds: float) -> ModelInfo:
    model = llm.model
    return ModelInfo(
        receipt=model_receipt(model),
        vocab_size=model.config.vocab_size,
        hidden_size=model.config.hidden_size,
        has_chat_template=model.has_chat_template,
        max_num_seqs=llm.config.max_num_seqs,
        max_num_batched_tokens=llm.config.max_num_batched_tokens,
        num_blocks=sum(group.num_blocks for group in model.program.info.kv_groups),
        block_size=BLOCK_SIZE,
        load_seconds=load_seconds,
    )


def _leave() -> None:
    os._exit(0)  # nothing here outlives its front; threads in native code are not waited for


if __name__ == "__main__":
    main()
