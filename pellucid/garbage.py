"""When garbage is collected, for the processes that are ours: those of the command line and of the server."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Code, vocabularies and models are made, which last: looking for garbage among them takes 8 % of a start.

    No later collection looks at what is there at the end. Process-wide, so never for a library's user.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
