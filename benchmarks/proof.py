"""The proofs of the book-keeping with their large counts; what they found goes into a result file.

    python benchmarks/proof.py [PART ...]             some of them; all without a name
    python benchmarks/proof.py simulation --seed 7    that simulation alone, event by event

docs/proof.md says what each of them does. The tests run the same code with small counts. The first thing that is wrong
ends it with an error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import bench_models
import machine

from pellucid import LLM, AsyncLLM
from pellucid.tools.bench import source_commit
from pellucid.tools.verify import verify_workload

ROOT = bench_models.ROOT
RESULTS = ROOT / "benchmarks" / "results"
STORY = ROOT.parent / "shared" / "models" / "story"

from support.cancels import cancel_at_random  # noqa: E402  (bench_models has put tests/ on the path)
from support.exact_crowd import TEMPLATE, compare_crowd  # noqa: E402
from support.sabotage import SABOTAGE, one_wrong_token  # noqa: E402
from support.scheduler_machine import explore  # noqa: E402
from support.server import Server  # noqa: E402
from support.simulation import SimulationFailed, simulate, simulate_all  # noqa: E402
from support.tiny_model import write_tiny_model  # noqa: E402

MAX_MODEL_LEN = 192
"""With two sequences of it, a cache of 24 blocks."""


def state_machine(scale: float) -> dict[str, Any]:
    examples = scaled(2_000, scale)
    return {"examples": examples, "events": dict(explore(examples))}


def simulation(scale: float) -> dict[str, Any]:
    """The seeds are shared out over processes, which changes nothing: each simulation follows from its seed."""
    seeds = range(scaled(10_000, scale))
    counts: Counter[str] = Counter()
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for some in pool.map(simulate_all, [seeds[i : i + 250] for i in range(0, len(seeds), 250)]):
            counts += some
    return {"seeds": len(seeds), "events": dict(counts)}


def invariance(scale: float) -> dict[str, Any]:
    """2,000 answers of Story, 200 of SmolLM2: requests have 1.6 answers on average."""
    return {name: replayed(name, scaled(count, scale)) for name, count in (("story", 1_400), ("smollm2", 140))}


def replayed(name: str, count: int) -> dict[str, Any]:
    path = bench_models.find(name, STORY, with_peer=False).path
    with LLM(str(path), max_num_seqs=2, max_model_len=MAX_MODEL_LEN) as llm:
        info = llm._model.program.info
        report = verify_workload(llm._model, count=count)
    if report.differences:
        raise SystemExit("\n".join(report.differences[:10]))
    assert report.num_preemptions > 0 or count < 50, "nothing was preempted"
    return {"isa": info.isa, "blocks": info.kv_groups[0].num_blocks, "threads": info.threads, **vars(report)}


def cancels(scale: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = write_tiny_model(Path(folder) / "tiny.gguf")
        llm = AsyncLLM(str(path), threads=1, kv_cache_memory="300KiB", max_model_len=160, max_num_seqs=16)
        ends = cancel_at_random(llm, scaled(20_000, scale))
        stats = llm._llm.stats()
        asyncio.run(llm.close())
    assert stats.blocks_used == 0, f"{stats.blocks_used} blocks leaked"
    return {"leaked_blocks": stats.blocks_used, "answers": dict(ends), **vars(stats)}


def server(scale: float) -> dict[str, Any]:
    """1,000 requests of Story, 100 of SmolLM2, through `pellucid serve`."""
    crowds = {"story": (1_000, {"template": TEMPLATE}), "smollm2": (100, {"calls": True})}
    return {name: crowd(name, scaled(count, scale), options) for name, (count, options) in crowds.items()}


def crowd(name: str, count: int, options: dict[str, Any]) -> dict[str, Any]:
    report = compare_crowd(bench_models.find(name, STORY, with_peer=False).path, count, **options)
    if report.differences:
        raise SystemExit("\n".join(report.differences[:10]))
    assert report.num_preemptions > 0 or count < 100, "nothing was preempted"
    return vars(report)


def document(scale: float) -> dict[str, Any]:
    from support.document_cases import check_document  # the other parts need no Schemathesis

    with Server(str(STORY), "--served-model-name", "m", "-c", "256", "--chat-template", TEMPLATE) as server:
        return check_document(server.url, scaled(3_000, scale))


def controls(scale: float) -> dict[str, Any]:
    """What is broken on purpose, and where it was found."""
    found: dict[str, Any] = {}
    for what, (owner, name, wrong) in SABOTAGE.items():
        try:
            with patch.object(owner, name, wrong):
                simulate_all(range(100))
            raise SystemExit(f"not found: {what}")
        except SimulationFailed as error:
            found[what] = str(error.__cause__)
    with LLM(str(STORY), max_num_seqs=2, max_model_len=MAX_MODEL_LEN) as llm, one_wrong_token(scaled(5_000, scale)):
        report = verify_workload(llm._model, count=scaled(400, scale))
    if len(report.differences) != 1:
        raise SystemExit(f"one token was wrong, found: {report.differences}")
    return {"simulation": found, "verify": f"1 wrong token of {report.num_tokens:,}: {report.differences[0]}"}


def scaled(count: int, scale: float) -> int:
    return max(1, int(count * scale))


PARTS: dict[str, Callable[[float], dict[str, Any]]] = {
    "machine": state_machine,
    "simulation": simulation,
    "invariance": invariance,
    "cancels": cancels,
    "server": server,
    "document": document,
    "controls": controls,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Prove the book-keeping with large counts.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--seed", type=int, help="run the simulation with this seed alone and print what happens")
    parser.add_argument("--scale", type=float, default=1.0, help="smaller counts for a trial; no result file then")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; expected some of {', '.join(PARTS)}")
    if args.seed is not None:
        print("\n".join(simulate(args.seed).trace))
        return
    header = {"date": machine.today(), "commit": source_commit(), "machine": machine.describe()}
    for part in args.parts or PARTS:
        print(f"{part} …", flush=True)
        wall, cpu = time.perf_counter(), sum(os.times()[:4])  # of this process and those it waited for
        found = PARTS[part](args.scale)
        found["seconds"] = round(time.perf_counter() - wall, 1)
        found["cpu_seconds"] = round(sum(os.times()[:4]) - cpu, 1)
        print(f"  {json.dumps(found)}", flush=True)
        if args.scale >= 1:
            write(header, part, found)


def write(header: dict[str, Any], part: str, found: dict[str, Any]) -> None:
    """Add what was found to the result file of the day and the commit."""
    target = RESULTS / f"{header['date']}-{str(header['commit']).rstrip('+')}-proof.json"
    result = json.loads(target.read_text(encoding="utf-8")) if target.is_file() else header
    target.write_text(json.dumps({**result, part: found}, indent=1) + "\n", encoding="utf-8")
    print(f"  written to {target.relative_to(ROOT)}", flush=True)


if __name__ == "__main__":
    main()
