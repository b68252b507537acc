"""Rounds of measurements: Pellucid, then the peer, then Pellucid again, so that drift of the machine hits both."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import bench_models
import llama_cpp
import machine
from bench_models import BenchModel
from llama_cpp import LlamaCpp

from pellucid.tools import timed_command
from pellucid.tools.bench import Samples, source_commit
from pellucid.tools.neighbours import Neighbours

PREFILL, DECODE, STREAMS = 512, 128, 32


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Everything, as it goes into the JSON file. No round begins after `args.minutes`, but the first of each model."""
    peer = None
    if args.llama_bin is not None:
        peer = f"llama.cpp {args.llama_version or llama_cpp.version(args.llama_bin)}"
    models = [bench_models.find(name, args.story, with_peer=peer is not None) for name in args.models.split(",")]
    result: dict[str, Any] = {
        "date": machine.today(),
        "commit": source_commit(),
        "command": " ".join(["python benchmarks/run.py", *_public(sys.argv[1:])]),
        "machine": machine.describe(),
        "threads": args.threads,
        "activations": args.activations,
        "peer": peer,
        "context": args.context,
        "limits": [],
        "models": [],
    }
    end = time.monotonic() + 60 * args.minutes
    measured = {model.name: {"name": model.name, "title": model.title, "rounds": []} for model in models}
    result["models"] = list(measured.values())
    for number in range(args.rounds):
        for model in models:
            if number == 0 or time.monotonic() < end:
                _progress(f"{model.title}: round {number + 1} of {args.rounds}")
                measured[model.name]["rounds"].append(_round(model, args, result["limits"], measured[model.name]))
    for model in models if args.context else []:
        if time.monotonic() < end:
            _progress(f"{model.title}: {args.context} tokens of context")
            measured[model.name]["long"] = _long(model, args)
    return result


def _round(model: BenchModel, args: argparse.Namespace, limits: list[Any], about: dict[str, Any]) -> dict[str, Any]:
    """One round of both engines. Adds to `limits`, and to what is known `about` the model."""
    options = ["--prefill", str(PREFILL), "--decode", str(DECODE), "--streams", str(STREAMS)]
    options += ["--only", "prefill,decode,streams,start"]
    with Neighbours() as others:
        ours = _pellucid(model.path, args, [*options, "--repeats", str(args.repeats)])
        found: dict[str, Any] = {"pellucid": ours["samples"]}
        if args.llama_bin is not None:
            peer = LlamaCpp(args.llama_bin, model.peer_path, args.threads)
            found["llama.cpp"] = peer.measure(PREFILL, DECODE, STREAMS, args.repeats)
    limits += ours["limits"]
    about["program"], about["file_nbytes"] = ours["program"], ours["model"]["file_nbytes"]
    return {**found, "others": others.share}


def _long(model: BenchModel, args: argparse.Namespace) -> dict[str, Any]:
    """The long context, once; the peer only for small models: it needs minutes for a large one."""
    with Neighbours() as others:
        options = ["--only", "context", "--context", str(args.context), "--repeats", "1"]
        found: dict[str, Any] = {"pellucid": _pellucid(model.path, args, options)["samples"]}
        if args.llama_bin is not None and model.path.stat().st_size < args.long_peer_mb * 1e6:
            found["llama.cpp"] = LlamaCpp(args.llama_bin, model.peer_path, args.threads).measure_context(args.context)
    return {**found, "others": others.share}


def _pellucid(path: Path, args: argparse.Namespace, options: list[str]) -> dict[str, Any]:
    """`pellucid bench` in a fresh process."""
    with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
        command = [sys.executable, "-m", "pellucid", "bench", path, "--threads", str(args.threads), "--json", file.name]
        chosen = [*(["--isa", args.isa] if args.isa else []), "--activations", args.activations]
        timed_command.run([*command, *options, *chosen])
        found: dict[str, Any] = json.load(file)
    return found


def round_medians(model: dict[str, Any], engine: str, workload: str) -> list[float]:
    """One value a round: the median of its repeats. Empty if this engine did not do that work."""
    rounds = [*model["rounds"], *([model["long"]] if "long" in model else [])]
    found: list[list[float]] = [samples.get(workload, []) for one in rounds if (samples := one.get(engine))]
    return [statistics.median(samples) for samples in found if samples]


def workloads(model: dict[str, Any]) -> list[str]:
    """All that Pellucid did, in order."""
    samples: Samples = {**model["rounds"][0]["pellucid"], **model.get("long", {}).get("pellucid", {})}
    return [key for key in samples if key != "load"]


def _public(arguments: list[str]) -> list[str]:
    """Arguments with the paths of this machine left out."""
    return ["…" if "/" in argument else argument for argument in arguments]


def _progress(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
