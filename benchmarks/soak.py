"""Tens of thousands of mixed requests to a server, and what they leave behind.

    python benchmarks/soak.py [PART ...]             some of them; all without a name

Each part starts a server and asks it good requests, bad ones (a tenth) and ones that are cancelled (a tenth): every one
must be answered as it should be. After a warm-up the server's memory is looked at, as are its files and threads, each
time when nothing is left to do. The control is a server that keeps 1 KiB of every request: that must be found in a
tenth of the requests. The tests run the same code with small counts. What is wrong ends it with an error. The figures
go into a result file and docs/operations.md.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_models
import machine
from figures import put

from pellucid.tools.bench import source_commit

ROOT = bench_models.ROOT
RESULTS = ROOT / "benchmarks" / "results"
STORY = ROOT.parent / "shared" / "models" / "story"

from support.leaky_server import LeakyServer  # noqa: E402  (bench_models has put tests/ on the path)
from support.server import Server  # noqa: E402
from support.soak import MAX_GROWTH, Mix, Report, arguments, soak  # noqa: E402

WARM_UP = 10_000
CONTROL = 5_000
LEAK_NBYTES = 1 << 10


def story(scale: float) -> dict[str, Any]:
    """As many looks as make the first ones those that the control has."""
    count = scaled(50_000, scale)
    report = run(Server, STORY, scaled(WARM_UP, scale), count, num_looks=100)
    found, short = figures(report), report.first(scaled(CONTROL, scale))
    found["growth_in_the_requests_of_the_control"] = rounded(short.growth)
    found["within_limits"] = is_within_limits(report) and sum(short.growth) <= MAX_GROWTH
    return found


def control(scale: float) -> dict[str, Any]:
    def leaky(*options: str, **environment: str) -> Server:
        return LeakyServer(LEAK_NBYTES, *options, **environment)

    report = run(leaky, STORY, scaled(WARM_UP, scale), scaled(CONTROL, scale), num_looks=10)
    front, *engines = report.growth
    is_found = min(front, sum(engines)) > LEAK_NBYTES / 2
    return {"leaked_bytes_a_request": LEAK_NBYTES, **figures(report), "within_limits": is_found}


def smollm2(scale: float) -> dict[str, Any]:
    path = bench_models.find("smollm2", STORY, with_peer=False).path
    counts = scaled(1_500, scale), scaled(2_000, scale)
    report = run(
        Server, path, *counts, "--kv-cache-memory", "32MiB", num_looks=20, mix=Mix("main", max_tokens=8, max_repeats=1)
    )
    return {**figures(report), "within_limits": is_within_limits(report)}


def run(start: Callable[..., Server], model: Path, warm_up: int, count: int, *options: str, **soaking: Any) -> Report:
    with (
        tempfile.TemporaryDirectory() as models,
        tempfile.TemporaryDirectory() as folder,
        start(*arguments(model, Path(models), *options), TMPDIR=folder) as server,
    ):
        return soak(server, Path(folder), warm_up, count, **soaking)


def is_within_limits(report: Report) -> bool:
    return max(sum(report.growth), report.total_growth) <= MAX_GROWTH


def figures(report: Report) -> dict[str, Any]:
    """Processes in the order front, engine, engine of the tiny model. Memory is RssAnon + VmSwap."""
    tally, (_, first), (_, last) = report.tally, report.looks[0], report.looks[-1]
    every = max(1, len(report.looks) // 10)
    return {
        "requests": tally.total,
        "answered": tally.answered,
        "refused": tally.refused,
        "cancelled": tally.cancelled,
        "unanswered_or_wrong": len(tally.wrong),
        "growth_bytes_a_request": rounded(report.growth),
        "growth_first_to_last_bytes_a_request": round(report.total_growth, 1),
        "files": [first.files.total(), last.files.total()],
        "threads": [first.threads, last.threads],
        "temporary_files": [first.temporary, last.temporary],
        "memory_mib": {n: [round(one / 2**20, 2) for one in look.nbytes] for n, look in report.looks[::every]},
    }


def rounded(values: list[float]) -> list[float]:
    return [round(value, 1) for value in values]


def scaled(count: int, scale: float) -> int:
    return max(1, int(count * scale))


PARTS: dict[str, Callable[[float], dict[str, Any]]] = {"story": story, "control": control, "smollm2": smollm2}


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask a server tens of thousands of requests; see what they leave.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--scale", type=float, default=1.0, help="smaller counts for a trial; no result file then")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; expected some of {', '.join(PARTS)}")
    header = {"date": machine.today(), "commit": source_commit(), "machine": machine.describe()}
    for part in args.parts or PARTS:
        print(f"{part} …", flush=True)
        wall, cpu = time.perf_counter(), sum(os.times()[:4])  # of this process and those it waited for
        found = PARTS[part](args.scale)
        found["seconds"] = round(time.perf_counter() - wall, 1)
        found["cpu_seconds"] = round(sum(os.times()[:4]) - cpu, 1)
        print(f"  {json.dumps(found)}", flush=True)
        if args.scale >= 1:
            if not found["within_limits"]:
                raise SystemExit(f"{part}: memory does not do what it should")
            write(header, part, found)


def write(header: dict[str, Any], part: str, found: dict[str, Any]) -> None:
    """Add what was found to the result file of the day and the commit."""
    target = RESULTS / f"{header['date']}-{str(header['commit']).rstrip('+')}-soak.json"
    result = json.loads(target.read_text(encoding="utf-8")) if target.is_file() else header
    target.write_text(json.dumps({**result, part: found}, indent=1) + "\n", encoding="utf-8")
    put(ROOT / "docs" / "operations.md", "soak", table(json.loads(target.read_text(encoding="utf-8")), target))
    print(f"  written to {target.relative_to(ROOT)} and docs/operations.md", flush=True)


TITLES = {
    "story": "Story (656 K)",
    "smollm2": "SmolLM2 135M",
    "control": "Story, each process keeping 1 KiB of each request",
}


def table(result: dict[str, Any], source: Path) -> str:
    """Of a result file with some of the parts."""
    rows = ["| server | requests | answered | refused | cancelled | otherwise | memory, bytes a request |"]
    rows.append("|---" * 7 + "|")
    for part, title in TITLES.items():
        if part in result:
            found = result[part]
            names = ("requests", "answered", "refused", "cancelled", "unanswered_or_wrong")
            slope, whole = sum(found["growth_bytes_a_request"]), found["growth_first_to_last_bytes_a_request"]
            cells = [title, *(f"{found[name]:,}" for name in names), f"{slope:,.0f} ({whole:,.0f})"]
            rows.append(f"| {' | '.join(cells)} |")
    note = (
        "Memory is RssAnon + VmSwap of all processes of the server after a warm-up: the median slope between any two\n"
        f"looks, and in brackets from the first look to the last. `benchmarks/results/{source.name}`."
    )
    return "\n".join([*rows, "", note])


if __name__ == "__main__":
    main()
