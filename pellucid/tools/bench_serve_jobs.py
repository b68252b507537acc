"""The requests of `pellucid bench serve`: lengths drawn from a mix, words drawn from a list, the same for every server.

Prompts are text, because not every server takes token ids: common words, each of which is one token for nearly every
tokenizer. What a server really counted is in its `usage`, and in the result.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

TEXT = """
the and was a to he she in it they said day had big with for mom very little on his that her play so of saw you time
friend one went happy look is wanted not up as all were there but their from them home out be good dog friends tree go
toy like could help do what fun put girl boy ran found park cat bird box ball house car new
"""


@dataclass(frozen=True)
class Lengths:
    """Of one request, in tokens. `num_shared` of its prompt are the beginning of every other prompt, too."""

    num_shared: int
    num_own: int
    num_new: int


def _log_normal(rng: random.Random, median: float, sigma: float, low: int, high: int) -> int:
    return min(max(round(rng.lognormvariate(math.log(median), sigma)), low), high)


def _sharegpt(rng: random.Random) -> Lengths:
    return Lengths(0, _log_normal(rng, 100, 1.2, 4, 1024), _log_normal(rng, 140, 0.8, 8, 768))


def _shared(rng: random.Random) -> Lengths:
    return Lengths(256, rng.randint(32, 512), rng.randint(64, 256))


def _short(rng: random.Random) -> Lengths:
    return Lengths(16, rng.randint(8, 48), rng.randint(8, 48))


MIXES: dict[str, tuple[str, Callable[[random.Random], Lengths]]] = {
    "sharegpt": ("log-normal like chats of people: prompts of about 200 tokens, answers of about 190", _sharegpt),
    "shared": ("a system prompt of 256 tokens before 32–512 of one's own; 64–256 new ones", _shared),
    "short": ("for small models: prompts of 24–64 tokens, 8–48 new ones", _short),
}


@dataclass(frozen=True)
class Job:
    """One request: the shared beginning (which may be empty), the rest of the prompt, and how long its answer is."""

    system: str
    prompt: str
    num_new: int

    def body(self, model: str | None, chat: bool) -> dict[str, object]:
        """As a body of /v1/completions, or of /v1/chat/completions. The answer has exactly `num_new` tokens where the
        server knows `ignore_eos`, as Pellucid, vLLM and llama-server do."""
        if chat:
            turns = [{"role": "system", "content": self.system}] if self.system else []
            work: dict[str, object] = {"messages": [*turns, {"role": "user", "content": self.prompt}]}
        else:
            work = {"prompt": f"{self.system} {self.prompt}".strip()}
        common = {"max_tokens": self.num_new, "ignore_eos": True, "temperature": 0}
        streaming = {"stream": True, "stream_options": {"include_usage": True}}
        return {**({} if model is None else {"model": model}), **work, **common, **streaming}


def jobs(mix: str, count: int, seed: int = 0) -> list[Job]:
    """`count` requests of MIXES[mix]; the same arguments give the same requests everywhere."""
    rng, vocabulary = random.Random(seed), TEXT.split()

    def words(number: int) -> str:
        return " ".join(rng.choices(vocabulary, k=number))

    shared = words(256)
    found = []
    for _ in range(count):
        lengths = MIXES[mix][1](rng)
        system = " ".join(shared.split()[: lengths.num_shared])
        found.append(Job(system, words(lengths.num_own), lengths.num_new))
    return found


def arrivals(count: int, rate: float, seed: int = 0) -> list[float]:
    """Seconds from the start at which requests of a Poisson process come, `rate` a second on average."""
    rng = random.Random(seed + 1)
    times, now = [], 0.0
    for _ in range(count):
        times.append(now)
        now += rng.expovariate(rate)
    return times
