"""`make bench-overload`: what good clients notice of 500 slow-loris connections, and of four times too many clients.

    python benchmarks/overload.py --models story,smollm2

Each model is served afresh for each of two comparisons, whose two halves follow each other on one server:

- 50 clients alone, then the same 50 beside 500 connections whose request never ends. The good ones' p99 of the whole
  answer may double.
- As many clients as are answered at once, then 256 against a queue of 64, who come again when refused, after the time
  that the server names. Answers a second must stay at 90 %, refusals come within 100 ms (p99).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import bench_models
import machine
from figures import put

from pellucid.tools.bench import save, source_commit
from pellucid.tools.bench_serve import LoadOptions, load
from pellucid.tools.served import served

ROOT = Path(__file__).resolve().parents[1]
STORY = ROOT.parent / "shared" / "models" / "story"
SLOTS, QUEUE, CLIENTS, GOOD, LORISES = 64, 64, 256, 50, 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="story", help="story, and those benchmarks/run.py knows (default: story)")
    parser.add_argument("--story", type=Path, default=STORY, help="folder of the Story model (default: %(default)s)")
    parser.add_argument(
        "--requests", type=int, default=1024, help="in each half of a comparison (default: %(default)s)"
    )
    parser.add_argument("--mix", default="short", help="lengths, as of `pellucid bench serve` (default: %(default)s)")
    args = parser.parse_args()
    models = []
    for name in args.models.split(","):
        path = args.story if name == "story" else bench_models.find(name, Path(), with_peer=False).path
        models.append({"name": name, **measure(str(path), args.requests, args.mix)})
        print(table(models[-1:]), flush=True)
    result = {
        "date": machine.today(),
        "commit": source_commit(),
        "machine": machine.describe(),
        "command": " ".join(["benchmarks/overload.py", *sys.argv[1:]]),
        "models": models,
    }
    source = f"{result['date']}-{str(result['commit']).rstrip('+')}-overload.json"
    save(result, Path(__file__).with_name("results") / source)
    put(ROOT / "docs" / "operations.md", "overload", text(result, source))


def measure(path: str, requests: int, mix: str) -> dict[str, Any]:
    """Both comparisons: the results of `pellucid bench serve`."""
    common: dict[str, Any] = {"num_requests": requests, "mix": mix}
    options = ["--max-num-seqs", str(SLOTS), "--max-queue", str(QUEUE)]
    found: dict[str, Any] = {}
    with served(path, options) as url:
        found["alone"] = load(url, LoadOptions(concurrency=GOOD, **common))
        found["beside lorises"] = load(url, LoadOptions(concurrency=GOOD, slow_loris=LORISES, **common))
    with served(path, options) as url:
        found["unloaded"] = load(url, LoadOptions(concurrency=SLOTS, **common))
        found["overloaded"] = load(url, LoadOptions(concurrency=CLIENTS, retry=True, **common))
    return found


def table(models: list[dict[str, Any]]) -> str:
    lines = [
        "| model | good clients' p99 alone | beside slow-loris | ratio | answers/s unloaded | overloaded | ratio "
        "| refused | after, p50 | p99 | unanswered |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for model in models:
        alone, beside = model["alone"], model["beside lorises"]
        before, after = model["unloaded"], model["overloaded"]
        refused, refusal = after["errors"].get("429", 0), after["refusal"] or {"p50": 0.0, "p99": 0.0}
        lost = sum(half["options"]["num_requests"] - half["answered"] for half in (alone, beside, before, after))
        p99, worse = alone["whole"]["p99"], beside["whole"]["p99"]
        rate, less = before["requests_per_second"], after["requests_per_second"]
        lines.append(
            f"| {model['name']} | {p99:.2f} s | {worse:.2f} s | {worse / p99:.2f} | {rate:.1f} | {less:.1f} "
            f"| {less / rate:.2f} | {refused:,} | {refusal['p50'] * 1e3:.0f} ms | {refusal['p99'] * 1e3:.0f} ms "
            f"| {lost} |"
        )
    return "\n".join(lines)


def text(result: dict[str, Any], source: str) -> str:
    others = max(half["others"] for model in result["models"] for half in model.values() if isinstance(half, dict))
    return (
        f"{table(result['models'])}\n\n{result['machine']['cpu']}, {result['machine']['cores']} cores that server and "
        f"clients share (the server and other processes took {others:.0%} of them), commit {result['commit']}, "
        f"{result['date']}. From `benchmarks/results/{source}`; `make bench-overload` makes it anew."
    )


if __name__ == "__main__":
    main()
