"""Rounds of measurements: Pellucid, then the peer, then Pellucid again, so that drift of the machine hits both."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import bench_models
import commands
import llama_cpp
import machine
from bench_models import BenchModel
from neighbours import Neighbours
from workloads import COLD_START_CONTEXT, COLD_START_PROMPT

Samples = dict[str, list[float]]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Everything, as it goes into the JSON file. The limits of the machine are measured before, between and after."""
    peer = None
    if args.llama_bin is not None:
        peer = f"llama.cpp {args.llama_version or llama_cpp.version(args.llama_bin)}"
    models = [bench_models.find(name, args.story, with_peer=peer is not None) for name in args.models.split(",")]
    result: dict[str, Any] = {
        "date": machine.today(),
        "commit": machine.commit(),
        "command": " ".join(["python benchmarks/run.py", *_public(sys.argv[1:])]),
        "machine": machine.describe(),
        "threads": args.threads,
        "rounds": args.rounds,
        "peer": peer,
        "limits": [machine.measured_limits(args.threads)],
        "models": [],
    }
    for model in models:
        result["models"].append(_measure_model(model, args))
        result["limits"].append(machine.measured_limits(args.threads))
    return result


def _measure_model(model: BenchModel, args: argparse.Namespace) -> dict[str, Any]:
    rounds: list[dict[str, Any]] = []
    for number in range(args.rounds):
        with Neighbours() as others:
            _progress(f"{model.title}: round {number + 1} of {args.rounds}, Pellucid")
            ours, program = _pellucid(model.path, args)
            rounds.append({"pellucid": ours})
            if args.llama_bin is not None:
                _progress(f"{model.title}: round {number + 1} of {args.rounds}, llama.cpp")
                rounds[-1]["llama.cpp"] = llama_cpp.measure(args.llama_bin, model.peer_path, args.threads, args.repeats)
        rounds[-1]["others"] = others.share
    _progress("")
    return {"name": model.name, "title": model.title, "program": program, "rounds": rounds}


def _pellucid(path: Path, args: argparse.Namespace) -> tuple[Samples, dict[str, Any]]:
    isa = ["--isa", args.isa] if args.isa else []
    worker = [sys.executable, Path(__file__).with_name("pellucid_worker.py"), path, "--threads", str(args.threads)]
    measured = json.loads(commands.run([*worker, "--repeats", str(args.repeats), *isa]).stdout)
    samples: Samples = measured["rates"]
    once = [Path(sys.executable).with_name("pellucid"), "run", path, COLD_START_PROMPT, "-n", "1"]
    once += ["--ctx-size", str(COLD_START_CONTEXT), "--threads", str(args.threads)]
    starts = [commands.run([*once, "--raw"]) for _ in range(args.repeats)]
    samples["cold_start"] = [start.seconds for start in starts]
    samples["peak_memory"] = [start.peak_mib for start in starts]
    samples["cold_start_chat"] = [commands.run(once).seconds for _ in range(args.repeats)]
    return samples, measured["program"]


def round_medians(model: dict[str, Any], engine: str, workload: str) -> list[float]:
    """One value a round: the median of its repeats. Empty if this engine did not do that work."""
    found = [round[engine].get(workload, []) for round in model["rounds"] if engine in round]
    return [statistics.median(samples) for samples in found if samples]


def _public(arguments: list[str]) -> list[str]:
    """Arguments with the paths of this machine left out."""
    return ["…" if "/" in argument else argument for argument in arguments]


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)
