"""An engine process that misbehaves when a request asks for it, by its tenant: "fault:crash", "fault:sleep:0.5" …

It wraps the real one: `command()` is what a ModelClient is given in its place.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]


def command(*options: str) -> tuple[str, ...]:
    """Options: "load-crash" dies while loading, "load-once" only if the marker file named after it is not there."""
    return (sys.executable, __file__, *options)


class Panic(BaseException):
    """As the panics of Rust extensions arrive in Python."""


def install() -> None:
    from pellucid.engine.engine import Engine
    from pellucid.text.tokenizer import Tokenizer

    run, encode = Engine._run, Tokenizer.encode

    def faulty_run(self, plan):
        rows = run(self, plan)
        for i, entry in enumerate(plan.scheduled):
            kind, _, argument = entry.request.tenant.removeprefix("fault:").partition(":")
            if not entry.request.tenant.startswith("fault:"):
                continue
            if kind == "early-crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            if entry.request.num_output_tokens < 2:
                continue
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
            elif kind == "nan":
                rows[i] = np.full_like(rows[i], np.nan)
            elif kind == "panic":
                raise Panic("secret details of a panic")
        return rows

    def faulty_encode(self, text, **options):
        if "fault:tokenizer-panic" in text:
            raise Panic("secret details of a tokenizer")
        return encode(self, text, **options)

    Engine._run, Tokenizer.encode = faulty_run, faulty_encode


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    if "load-crash" in sys.argv:
        os._exit(4)
    install()
    from pellucid.server import engine_process

    engine_process.main(sys.argv[1:])
