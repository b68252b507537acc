"""What happens in one simulation, drawn from a seed before it begins: settings, arrivals, cancels and faults."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from support.fake_model import EOS

from pellucid.sampling import SamplingParams
from pellucid.structured_outputs import StructuredOutputs

STEP_FAULTS = [
    "failing step",
    "failing copy",
    "wrong width",
    "nan",
    "refusal",
    "interrupt before scheduling",
    "interrupt after scheduling",
    "interrupt before the model",
    "interrupt after the model",
    "interrupt at some line",
]

SAMPLERS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0},
    {"temperature": 1.0, "top_p": 0.8},
    {"temperature": 1.3, "min_p": 0.02, "repetition_penalty": 1.2},
    {"temperature": 0.9, "dry_multiplier": 0.8, "frequency_penalty": 0.4},
    {"temperature": 1.0, "mirostat": 2},
]


@dataclass(frozen=True)
class Arrival:
    """One call of `add_request` or `add_readout`, and what will happen to it. Times are virtual milliseconds."""

    at: float
    prompt: list[int]
    params: SamplingParams
    priority: int
    tenant: str
    salt: str
    cancel_after: float | None
    readout: str | None  # "mean", "last", "cls" or "logprobs": it reads instead of answering
    grammar: str | None  # "good", "wrong" (does not compile) or "broken" (fails after `breaks_at` tokens)
    grammar_takes: float
    constraint_length: int
    breaks: str | None  # "sampler" or "text": what raises, after `breaks_at` tokens
    breaks_at: int

    @property
    def kind(self) -> str:
        parts = [self.readout, self.grammar and f"{self.grammar} grammar", self.breaks and f"{self.breaks} breaks"]
        return ", ".join(part for part in parts if part) or "plain"


@dataclass(frozen=True)
class Scenario:
    seed: int
    settings: dict[str, Any]  # of EngineConfig
    num_blocks: int
    windows: tuple[int, ...]
    max_model_len: int
    drafter: str | None  # "right", "lying" or "broken"
    arrivals: list[Arrival]
    faults: dict[int, str]  # by number of the step


def draw_scenario(rng: random.Random) -> Scenario:
    settings = {
        "max_num_seqs": rng.randint(1, 10),
        "max_num_batched_tokens": rng.randint(1, 80),
        "prefill_chunk": rng.choice([None, rng.randint(1, 40)]),
        "enable_prefix_caching": rng.random() < 0.9,
    }
    prefixes = [_tokens(rng, rng.randint(8, 56)) for _ in range(2)]
    pause = rng.choice([0.2, 1.0, 10.0])  # crowded or quiet
    time, arrivals = 0.0, []
    for _ in range(rng.randint(1, 14)):
        time += rng.expovariate(1 / pause)
        arrivals.append(_draw_arrival(rng, time, prefixes))
    faulty = rng.random() < 0.7
    return Scenario(
        seed=rng.getrandbits(32),
        settings=settings,
        num_blocks=rng.choice([rng.randint(3, 8), rng.randint(6, 16)]),
        windows=rng.choice([(0,), (0,), (0, 20), (40,), (16, 50)]),
        max_model_len=rng.choice([80, 96, 160]),
        drafter=rng.choice([None, None, "right", "lying", "broken"]),
        arrivals=arrivals,
        faults={rng.randint(1, 40): rng.choice(STEP_FAULTS) for _ in range(rng.randint(1, 4) if faulty else 0)},
    )


def _draw_arrival(rng: random.Random, time: float, prefixes: list[list[int]]) -> Arrival:
    """Half of the prompts begin alike, so that blocks are shared."""
    prompt = _tokens(rng, rng.randint(1, 60))
    if rng.random() < 0.6:
        prompt = rng.choice(prefixes) + prompt[: rng.randint(0, 6)]
    grammar = rng.choice(["good", "good", "good", "wrong", "broken"]) if rng.random() < 0.15 else None
    params = SamplingParams(
        **rng.choice(SAMPLERS),
        seed=rng.randint(0, 3),
        n=rng.choice([1, 1, 1, 1, 2, 4]),
        max_tokens=rng.randint(1, 30),
        ignore_eos=grammar is None and rng.random() < 0.5,
        min_tokens=1 if grammar is None and rng.random() < 0.3 else 0,
        logprobs=rng.choice([None, 0, 2]),
        prompt_logprobs=rng.choice([None, None, None, 1]),
        structured_outputs=None if grammar is None else StructuredOutputs(regex="scripted"),
    )
    return Arrival(
        at=time,
        prompt=prompt,
        params=params,
        priority=rng.choice([0, 0, 0, 0, -1, 3]),
        tenant=rng.choice(["", "a", "b"]),
        salt=rng.choice(["", "", "", "s"]),
        cancel_after=rng.uniform(0, 30) if rng.random() < 0.2 else None,
        readout=rng.choice(["mean", "last", "cls", "logprobs"]) if grammar is None and rng.random() < 0.12 else None,
        grammar=grammar,
        grammar_takes=rng.choice([0.0, rng.uniform(0, 30)]),
        constraint_length=rng.randint(1, 20),
        breaks=rng.choice(["sampler", "text"]) if rng.random() < 0.08 else None,
        breaks_at=rng.randint(0, 12),
    )


def _tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(EOS) for _ in range(count)]
