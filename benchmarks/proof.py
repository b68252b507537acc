"""The proofs of the book-keeping with their large counts; what they found goes into a result file.

    python benchmarks/proof.py [PART ...]             machine, simulation; both without a name
    python benchmarks/proof.py simulation --seed 7    that simulation alone, event by event

docs/proof.md says what each of them does. The tests run the same code with small counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
sys.path.insert(0, str(ROOT / "tests"))

from support.scheduler_machine import explore  # noqa: E402
from support.simulation import simulate, simulate_all  # noqa: E402


def state_machine(scale: float) -> dict[str, Any]:
    examples = max(1, int(2_000 * scale))
    return {"examples": examples, "events": dict(explore(examples))}


def simulation(scale: float) -> dict[str, Any]:
    seeds = range(max(1, int(10_000 * scale)))
    return {"seeds": len(seeds), "events": dict(simulate_all(seeds))}


PARTS: dict[str, Callable[[float], dict[str, Any]]] = {"machine": state_machine, "simulation": simulation}


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
    result: dict[str, Any] = {"date": machine.today(), "commit": machine.commit(), "machine": machine.describe()}
    for part in args.parts or PARTS:
        print(f"{part} …", flush=True)
        wall, cpu = time.perf_counter(), time.process_time()
        found = PARTS[part](args.scale)
        seconds = {"seconds": round(time.perf_counter() - wall, 1), "cpu_seconds": round(time.process_time() - cpu, 1)}
        result[part] = found | seconds
        print(f"  {json.dumps(result[part])}", flush=True)
    if args.scale >= 1:
        target = RESULTS / f"{result['date']}-{result['commit'].rstrip('+')}-proof.json"
        target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"written to {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
