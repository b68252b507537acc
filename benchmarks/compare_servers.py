"""Servers under the same load: `pellucid serve` beside llama-server on the same file, and `LLM.generate` offline.

    python benchmarks/compare_servers.py --models smollm2 --streams 1,8,32,64 --llama-server PROGRAM

Every request has a system prompt of 256 tokens that all share, 32–512 tokens of its own, and 64–256 new ones (the mix
"shared" of `pellucid bench serve`, greedy). As many clients as there are streams send their next request when the last
one has ended. Each server is started afresh for each number of streams, with as many slots and nothing else changed,
and answers one request before it is measured. Servers take turns; a round is each of them once.

Offline is the same prompts in one `LLM.generate`, as many at a time: what is lost between it and the server is the
server's price. A short run: --streams 1,8,32 --rounds 1 --requests-per-stream 1 --mix short.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import bench_models
import machine
from figures import put
from llama_server import llama_server
from plots import ratio_bars

from pellucid.tools import timed_command
from pellucid.tools.bench import save, source_commit
from pellucid.tools.bench_serve import LoadOptions, load
from pellucid.tools.bench_serve_jobs import jobs
from pellucid.tools.neighbours import Neighbours
from pellucid.tools.served import served

MAX_MODEL_LEN = 1152  # the longest request has 1,024 words and new tokens; a few words are two tokens
LEAST_REQUESTS = 4


def main() -> None:
    args = arguments()
    result: dict[str, Any] = {
        "date": machine.today(),
        "commit": source_commit(),
        "machine": machine.describe(),
        "threads": args.threads,
        "peers": {"llama-server": args.llama_version},
        "models": [],
    }
    for name in args.models.split(","):
        model = bench_models.find(name, Path(), with_peer=False)
        runs = [_runs(model.path, streams, args) for streams in map(int, args.streams.split(","))]
        result["models"].append({"name": name, "title": model.title, "runs": runs})
    path = Path(__file__).with_name("results") / f"{result['date']}-{str(result['commit']).rstrip('+')}-servers.json"
    save(result, path)
    if args.llama_server is not None:
        groups = [(model["title"], ratios(model)) for model in result["models"]]
        path.with_suffix(".svg").write_text(ratio_bars("Pellucid's server / llama-server", groups), encoding="utf-8")
    tables = "\n\n".join(map(table, result["models"]))
    print(tables)
    peer = "" if args.llama_version is None else f" llama-server is llama.cpp {args.llama_version}."
    shares = [one["others"] for model in result["models"] for run in model["runs"] for one in run["rounds"]]
    put(
        Path(__file__).resolve().parents[1] / "docs" / "serving.md",
        "servers",
        f"{tables}\n\n{result['machine']['cpu']}, {args.threads} threads, medians of {args.rounds} rounds, commit "
        f"{result['commit']}, {result['date']}; other processes took at most {max(shares):.0%} of the cores.{peer} "
        f"From `benchmarks/results/{path.name}`; `make bench-servers` makes it anew.",
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="smollm2", help="of those benchmarks/run.py knows")
    parser.add_argument("--streams", default="1,8,32,64")
    parser.add_argument("--requests-per-stream", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--mix", default="shared", help="lengths, as of `pellucid bench serve`")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--llama-server", type=Path, help="llama.cpp's program of that name")
    parser.add_argument("--llama-version", help="what to call it")
    return parser.parse_args()


def _runs(path: Path, streams: int, args: argparse.Namespace) -> dict[str, Any]:
    """All rounds of one number of streams."""
    options = LoadOptions(
        num_requests=max(LEAST_REQUESTS, streams * args.requests_per_stream), concurrency=streams, mix=args.mix
    )
    rounds = []
    for number in range(args.rounds):
        with Neighbours() as others:
            measured = {"pellucid": pellucid(path, options, args.threads)}
            if args.llama_server is not None:
                measured["llama-server"] = llama(path, options, args)
            measured["offline"] = offline(path, options, args.threads)
        rounds.append({**measured, "others": others.share})
        rates = {name: round(one["new_tokens_per_second"], 1) for name, one in measured.items()}
        print(f"{path.stem}, {streams} streams, round {number + 1}: {rates}, others {others.share:.0%}", flush=True)
    return {"streams": streams, "rounds": rounds}


def pellucid(path: Path, options: LoadOptions, threads: int) -> dict[str, Any]:
    slots = ["--max-num-seqs", str(options.concurrency), "-c", str(MAX_MODEL_LEN), "--threads", str(threads)]
    with served(str(path), slots) as url:
        return load(url, options)


def llama(path: Path, options: LoadOptions, args: argparse.Namespace) -> dict[str, Any]:
    with llama_server(args.llama_server, path, options.concurrency or 1, args.threads, MAX_MODEL_LEN) as url:
        return load(url, options)


def offline(path: Path, options: LoadOptions, threads: int) -> dict[str, Any]:
    """A fresh process, which is this file again."""
    about = {"path": str(path), "requests": options.num_requests, "streams": options.concurrency, "mix": options.mix}
    work = json.dumps(about)
    done = timed_command.run([sys.executable, __file__, "--worker", work, str(threads)])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def worker(path: str, requests: int, streams: int, mix: str, threads: int) -> None:
    from pellucid import LLM, SamplingParams

    with LLM(path, threads=threads, max_num_seqs=streams, max_model_len=MAX_MODEL_LEN) as llm:
        work = jobs(mix, requests)
        prompts = [f"{job.system} {job.prompt}" for job in work]
        params = [SamplingParams(temperature=0, max_tokens=job.num_new, ignore_eos=True) for job in work]
        llm.generate(prompts[0], params[0])  # as the servers answer one before they are measured
        begun = time.perf_counter()
        llm.generate(prompts, params, progress=False)
        seconds = time.perf_counter() - begun
    tokens = sum(job.num_new for job in work)
    print(json.dumps({"seconds": seconds, "new_tokens": tokens, "new_tokens_per_second": tokens / seconds}))


def _median(run: dict[str, Any], engine: str, *keys: str) -> float | None:
    """Over the rounds; None if the engine was not measured."""
    found = []
    for one in run["rounds"]:
        value = one.get(engine)
        for key in keys:
            value = value and value.get(key)
        if value is not None:
            found.append(value)
    return statistics.median(found) if found else None


def ratios(model: dict[str, Any]) -> list[tuple[str, float]]:
    """More than one is better than the peer: tokens a second, and the peer's time to the first token over ours."""
    bars = []
    for run in model["runs"]:
        for label, keys in (("tokens/s", ("new_tokens_per_second",)), ("first token p99", ("first_token", "p99"))):
            ours, theirs = _median(run, "pellucid", *keys), _median(run, "llama-server", *keys)
            assert ours is not None
            assert theirs is not None
            bars.append((f"{run['streams']} streams, {label}", ours / theirs if len(keys) == 1 else theirs / ours))
    return bars


def table(model: dict[str, Any]) -> str:
    """Medians over the rounds: tokens a second, and what is lost to offline; times as p50 / p99 in milliseconds."""
    lines = [
        f"**{model['title']}**",
        "",
        "| streams | | tokens/s | of offline | first token, p50 / p99 ms | between tokens, p50 / p99 ms |",
        "|---|---|---|---|---|---|",
    ]
    for run in model["runs"]:
        whole = _median(run, "offline", "new_tokens_per_second")
        assert whole is not None
        for engine in ("pellucid", "llama-server", "offline"):
            rate = _median(run, engine, "new_tokens_per_second")
            if rate is None:
                continue
            times = [
                f"{p50 * 1e3:.0f} / {p99 * 1e3:.0f}" if p50 is not None and p99 is not None else ""
                for key in ("first_token", "between_tokens")
                for p50, p99 in [(_median(run, engine, key, "p50"), _median(run, engine, key, "p99"))]
            ]
            share = f"{rate / whole:.0%}" if engine == "pellucid" else ""
            lines.append(f"| {run['streams']} | {engine} | {rate:.1f} | {share} | {times[0]} | {times[1]} |")
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(**json.loads(sys.argv[2]), threads=int(sys.argv[3]))
    else:
        main()
