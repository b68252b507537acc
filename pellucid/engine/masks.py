"""MaskThread: computes which tokens constraints allow next while the forward pass runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from pellucid.engine.request import Request


class MaskThread:
    """One thread, started when the first constraint comes."""

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None

    @contextmanager
    def preparing(self, requests: Iterable[Request]) -> Iterator[None]:
        """Within the block the samplers of `requests` prepare their masks; on leaving it, all have."""
        constrained = [r for r in requests if r.sampler.constraint is not None]
        if not constrained:
            yield
            return
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1, thread_name_prefix="pellucid-masks")

        def prepare() -> None:
            for request in constrained:
                with suppress(Exception):  # the sampler meets the same error and ends the request with it
                    request.sampler.prepare()

        masks = self._threads.submit(prepare)
        try:
            yield
        finally:
            masks.result()
