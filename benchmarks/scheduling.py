"""What book-keeping costs: its share of a step, and what a shared prefix saves a second request.

    python benchmarks/scheduling.py [MODEL]        prints two tables and writes results/…-scheduling.json

Times are CPU times, so that neighbours on the machine matter less. Book-keeping is what the engine's thread does
outside the forward pass and the native sampler; the forward pass counts as its CPU time divided by the threads, as if
no thread ever waited. Time to first token is the CPU time of all threads up to a lone request's first token.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_models
import machine

from pellucid import LLM, SamplingParams
from pellucid.engine import engine as engine_module
from pellucid.engine import rounds as rounds_module
from pellucid.engine.engine import Engine
from pellucid.tools.bench import source_commit

RUNNING = 32
STEPS = 100
SHARED_TOKENS = 2000
OWN_TOKENS = 20
ROUNDS = 3
RESULTS = Path(__file__).with_name("results")


class Clock:
    """Adds up the CPU seconds of the calls it is put around: of the calling thread, and of the process."""

    def __init__(self) -> None:
        self.thread: Counter[str] = Counter()
        self.process: Counter[str] = Counter()

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **more: Any) -> Any:
            thread, process = time.thread_time(), time.process_time()
            result = function(*args, **more)
            self.thread[name] += time.thread_time() - thread
            self.process[name] += time.process_time() - process
            return result

        return timed


def measure_steps(engine: Engine) -> dict[str, float]:
    """Milliseconds of a step's parts with RUNNING answers in progress, and the share of book-keeping."""
    rng = random.Random(0)
    params = SamplingParams(max_tokens=STEPS + 8, ignore_eos=True, temperature=0.8, top_p=0.95)
    requests = [engine.add_request(prompt(rng, 64), params)[0] for _ in range(RUNNING)]
    while any(request.num_output_tokens < 2 for request in requests):
        engine.step()
    clock = Clock()
    own: list[tuple[Any, str]] = [
        (engine.scheduler, "schedule"),
        (engine_module, "build_batch"),
        (rounds_module, "sample_rows"),
        (engine.program, "run"),
    ]
    before = [getattr(owner, name) for owner, name in own]
    for (owner, name), function in zip(own, before, strict=True):
        setattr(owner, name, clock.around(name, function))
    step = clock.around("step", engine.step)
    for _ in range(STEPS):
        step()
    for (owner, name), function in zip(own, before, strict=True):
        setattr(owner, name, function)
    engine.abort(requests)
    spent = clock.thread
    bookkeeping = spent["step"] - spent["run"] - spent["sample_rows"]
    forward = clock.process["run"] / engine.program.info.threads
    seconds = {
        "schedule": spent["schedule"],
        "build_batch": spent["build_batch"],
        "other book-keeping": bookkeeping - spent["schedule"] - spent["build_batch"],
        "sampling": spent["sample_rows"],
        "forward pass": forward,
    }
    share = bookkeeping / (bookkeeping + spent["sample_rows"] + forward)
    return {**{name: value / STEPS * 1e3 for name, value in seconds.items()}, "share": share}


def measure_prefix(engine: Engine, seed: int) -> tuple[float, float]:
    """CPU milliseconds to the first token of two requests whose first SHARED_TOKENS tokens are the same."""
    rng = random.Random(seed)
    shared = prompt(rng, SHARED_TOKENS)
    first, second = (_to_first_token(engine, shared + prompt(rng, OWN_TOKENS)) for _ in range(2))
    return first, second


def _to_first_token(engine: Engine, token_ids: list[int]) -> float:
    before = time.process_time()
    [request] = engine.add_request(token_ids, SamplingParams(max_tokens=1, temperature=0))
    while request.finish_reason is None:
        engine.step()
    assert request.error is None, request.error
    return (time.process_time() - before) * 1e3


def prompt(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(300, 40_000) for _ in range(length)]


def main() -> None:
    model = bench_models.find(sys.argv[1] if len(sys.argv) > 1 else "smollm2", Path(), with_peer=False)
    with LLM(str(model.path), max_num_seqs=RUNNING, max_model_len=SHARED_TOKENS + 48) as llm:
        rounds = [measure_steps(llm._engine) for _ in range(ROUNDS)]
        prefixes = [measure_prefix(llm._engine, seed) for seed in range(ROUNDS)]
        threads = llm._engine.program.info.threads
    parts = {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
    first, second = (statistics.median(times) for times in zip(*prefixes, strict=True))
    result = {
        "date": machine.today(),
        "commit": source_commit(),
        "machine": machine.describe(),
        "model": model.title,
        "threads": threads,
        "running": RUNNING,
        "step_ms": {name: value for name, value in parts.items() if name != "share"},
        "bookkeeping_share": parts["share"],
        "prefix_tokens": SHARED_TOKENS,
        "time_to_first_token_ms": {"cold": first, "warm": second},
    }
    print(f"{model.title}, {threads} threads, {RUNNING} answers in progress: CPU ms a step (median of {ROUNDS} rounds)")
    for name, value in result["step_ms"].items():
        print(f"  {name:<20} {value:8.2f}")
    print(f"  book-keeping is {parts['share']:.1%} of a step")
    print(f"{SHARED_TOKENS} tokens shared, {OWN_TOKENS} of its own: CPU ms to the first token")
    print(f"  first request        {first:8.1f}\n  second               {second:8.1f} ({second / first:.1%})")
    path = RESULTS / f"{result['date']}-{result['commit'].rstrip('+')}-scheduling.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
