"""`pellucid serve` that keeps some memory of every request: python leaky_server.py NBYTES MODEL OPTION…

The front keeps it, and so does the engine that has to do with it. It is a control: what looks for leaks must find it.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from support.server import Server

KEPT: list[bytes] = []


class LeakyServer(Server):
    def __init__(self, nbytes: int, *arguments: str, **environment: str) -> None:
        super().__init__(*arguments, **environment)
        own = self.arguments[self.arguments.index("serve") + 1 :]
        self.arguments = [sys.executable, __file__, str(nbytes), *own]


def leak(owner: Any, name: str, nbytes: int) -> None:
    """Every call of that method keeps `nbytes`."""
    call = getattr(owner, name)

    def leaking(*args: Any, **kwargs: Any) -> Any:
        KEPT.append(b"\x01" * nbytes)
        return call(*args, **kwargs)

    setattr(owner, name, leaking)


def front(nbytes: int, arguments: list[str]) -> None:
    from pellucid.cli import main
    from pellucid.server import registry
    from pellucid.server.boundary import Boundary

    leak(Boundary, "__call__", nbytes)
    command = (sys.executable, __file__, str(nbytes), "--engine")
    registry.ModelRegistry = partial(registry.ModelRegistry, command=command)  # type: ignore[assignment,misc]
    sys.argv = ["pellucid", "serve", *arguments]
    main.main()


def engine(nbytes: int, arguments: list[str]) -> None:
    from pellucid.server import engine_process
    from pellucid.server.session import EngineSession

    leak(EngineSession, "_begin", nbytes)
    engine_process.main(arguments)


if __name__ == "__main__":
    if sys.argv[2] == "--engine":
        engine(int(sys.argv[1]), sys.argv[3:])
    else:
        front(int(sys.argv[1]), sys.argv[2:])
