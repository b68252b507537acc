"""Large offline work: any number of prompts through one engine, of which only so many are in memory at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pellucid.engine.engine import Engine
from pellucid.engine.readout import Readout
from pellucid.engine.request import Request
from pellucid.errors import InvalidRequest
from pellucid.sampling import SamplingParams

_K = TypeVar("_K")


@dataclass(frozen=True)
class Job(Generic[_K]):
    """A prompt to answer. `encode` makes its text (None if it has none) and token ids when its turn comes.

    `priority` and `cache_salt` are those of `Engine.add_request`. With `readout`, which is given the number of tokens,
    the prompt is read and nothing generated; `params` mean nothing then.
    """

    key: _K
    encode: Callable[[], tuple[str | None, Sequence[int]]]
    params: SamplingParams
    priority: int = 0
    cache_salt: str = ""
    readout: Callable[[int], Readout] | None = None


@dataclass(frozen=True)
class Refusal(Generic[_K]):
    """A job that cannot be served, and why."""

    key: _K
    params: SamplingParams
    error: InvalidRequest


@dataclass(frozen=True)
class Answered(Generic[_K]):
    """A job whose requests, one for each of n, have ended: well, or with an error that they name."""

    key: _K
    prompt: str | None
    requests: list[Request]


def answer_jobs(
    engine: Engine, lock: threading.Lock, jobs: Iterable[Job[_K]], *, max_queued: int
) -> Iterator[Answered[_K] | Refusal[_K]]:
    """Take jobs as there is room for them and yield each when it is done, in the order in which they end.

    No job is taken while `max_queued` sequences or more are in the engine. `lock` is held for each call to the engine:
    other threads may use it, too. Closing the iterator ends what is running.
    """
    pending: list[Answered[_K]] = []
    upcoming = iter(jobs)
    has_more = True
    try:
        while has_more or pending:
            while has_more and sum(len(p.requests) for p in pending) < max_queued:
                job = next(upcoming, None)
                if job is None:
                    has_more = False
                    break
                try:
                    prompt, token_ids = job.encode()
                    if job.readout is None:
                        engine.compile(job.params)
                    with lock:
                        requests = _add(engine, token_ids, job)
                    pending.append(Answered(job.key, prompt, requests))
                except InvalidRequest as error:
                    yield Refusal(job.key, job.params, error)
            with lock:
                engine.step()
            done = [p for p in pending if all(r.finish_reason is not None for r in p.requests)]
            if done:
                pending = [p for p in pending if p not in done]
                yield from done
    finally:
        with lock:
            engine.abort(request for p in pending for request in p.requests)


def _add(engine: Engine, token_ids: Sequence[int], job: Job[Any]) -> list[Request]:
    if job.readout is not None:
        return [engine.add_readout(token_ids, job.readout(len(token_ids)))]
    return engine.add_request(token_ids, job.params, priority=job.priority, cache_salt=job.cache_salt)
