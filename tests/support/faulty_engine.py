"""An engine process that misbehaves when a request asks for it, by a stop string: "fault:crash", "fault:sleep:0.5" …

It wraps the real one: `command()` is what a ModelClient is given in its place.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]


def command(*options: str) -> tuple[str, ...]:
    """Option "load-crash": it dies while loading."""
    return (sys.executable, __file__, *options)


class Panic(BaseException):
    """As the panics of Rust extensions arrive in Python."""


def install() -> None:
    from pellucid.engine.engine import Engine
    from pellucid.server import engine_process
    from pellucid.text.tokenizer import Tokenizer

    run, encode, load = Engine._run, Tokenizer.encode, engine_process.EngineProcess._load

    def faulty_run(self, plan):
        rows = run(self, plan)
        for i, entry in enumerate(plan.scheduled):
            fault = next((stop for stop in entry.request.params.stop if stop.startswith("fault:")), None)
            if fault is None:
                continue
            _, kind, argument = f"{fault}:".split(":")[:3]
            if kind == "early-crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            if entry.request.num_output_tokens < 2:
                continue
            if kind in ("crash", "exit", "panic"):
                time.sleep(0.1)  # until the front knows that it has begun
            if kind == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            elif kind == "exit":
                os._exit(3)
            elif kind == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            elif kind == "sleep":
                time.sleep(float(argument))
            elif kind == "raise":
                raise RuntimeError("secret details of a step")
            elif kind == "garbage":  # what no engine would say
                os.write(int(sys.argv[-1]), b"\xff" * 64)
            elif kind == "loop":  # no heartbeats, as of a process without a core
                loop.call_soon_threadsafe(time.sleep, float(argument))
            elif kind == "memory":
                raise MemoryError
            elif kind == "nan":
                rows[i] = np.full_like(rows[i], np.nan)
            elif kind == "panic":
                raise Panic("secret details of a panic")
        return rows

    def faulty_encode(self, text, **options):
        if "fault:tokenizer-panic" in text:
            raise Panic("secret details of a tokenizer")
        if "fault:tokenizer-crash" in text:
            os.kill(os.getpid(), signal.SIGSEGV)
        return encode(self, text, **options)

    async def noted_load(self, command):
        nonlocal loop
        loop = asyncio.get_running_loop()
        await load(self, command)

    loop = None
    Engine._run, Tokenizer.encode = faulty_run, faulty_encode
    engine_process.EngineProcess._load = noted_load


def install_clock() -> None:
    """SIGUSR1 sets the wall clock a day forward, SIGUSR2 a day back."""
    real, offset = time.time, 0.0

    def jump(seconds):
        def handler(*_):
            nonlocal offset
            offset += seconds

        return handler

    time.time = lambda: real() + offset
    signal.signal(signal.SIGUSR1, jump(86_400.0))
    signal.signal(signal.SIGUSR2, jump(-86_400.0))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    if "load-crash" in sys.argv:
        os._exit(4)
    install_clock()
    install()
    from pellucid.server import engine_process

    engine_process.main(sys.argv[1:])
