"""Rounds of measurements: Pellucid, then the peer, then Pellucid again, so that drift of the machine hits both.

A result holds, for each model, what the parts below found; a part that was not asked for is simply absent. Samples are
kept by engine: "pellucid" with the first of the activations, "pellucid int8" with others, and "llama.cpp".
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_models
import golden_quality
import llama_cpp
import machine
from bench_models import BenchModel
from llama_cpp import LlamaCpp

from pellucid.tools import timed_command
from pellucid.tools.bench import source_commit
from pellucid.tools.neighbours import Neighbours

PARTS = {
    "rounds": "prefill, decode, streams, mixed load, cold start, memory; every engine, again each round",
    "threads": "prefill and decode with one thread and with all",
    "context": "prefill and decode at long contexts",
    "quality": "distance of the next token's distribution from float32, on the tests' goldens",
}
PREFILL, DECODE = 512, 128
STREAMS = (1, 2, 4, 8, 16, 32, 64)
CONTEXTS, PEER_CONTEXTS = (1024, 2048, 4096, 8192), (2048, 8192)  # the peer reads every one from its beginning
WITH_CONTEXT = ("smollm2", "gemma3", "perf-1b-q4_k_m")
LARGE_NBYTES = 2 << 30  # of a file above it: fewer decoded tokens, no streams, one number of threads
LARGE_DECODE = 32

Model = dict[str, Any]


def measure(args: argparse.Namespace, save: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """What was asked for, added to `args.into` if given; `save` gets the result after each piece of work.

    Nothing but each model's first round begins after `args.minutes`.
    """
    peer = None
    if args.llama_bin is not None:
        peer = f"llama.cpp {args.llama_version or llama_cpp.version(args.llama_bin)}"
    models = [bench_models.find(name, args.story, with_peer=peer is not None) for name in args.models.split(",")]
    result = _begun(args, peer)
    end = time.monotonic() + 60 * args.minutes
    for model in models:
        if not any(one["name"] == model.name for one in result["models"]):
            result["models"].append({"name": model.name, "title": model.title, "rounds": []})
    measured = {one["name"]: one for one in result["models"]}
    works = {"threads": _threads, "context": _context, "quality": _quality}
    for number in range(args.rounds if "rounds" in args.parts else 0):
        for model in models:
            if number == 0 or time.monotonic() < end:
                _progress(f"{model.title}: round {number + 1} of {args.rounds}")
                _round(model, args, result["limits"], measured[model.name])
                save(result)
    for part, work in works.items():
        for model in models if part in args.parts else []:
            if time.monotonic() < end:
                _progress(f"{model.title}: {part}")
                work(model, args, result["limits"], measured[model.name])
                save(result)
    return result


def _begun(args: argparse.Namespace, peer: str | None) -> dict[str, Any]:
    """A result without measurements, or the one to add to; SystemExit if that is of another machine or commit."""
    result: dict[str, Any] = {
        "date": machine.today(),
        "commit": source_commit(),
        "command": " ".join(["python benchmarks/run.py", *_public(sys.argv[1:])]),
        "machine": machine.describe(),
        "threads": args.threads,
        "activations": ",".join(args.activations),
        "peer": peer,
        "limits": [],
        "models": [],
    }
    if args.into is None:
        return result
    earlier: dict[str, Any] = json.loads(args.into.read_text(encoding="utf-8"))
    for key in ("machine", "commit", "threads", "activations", "peer"):
        if earlier[key] != result[key]:
            raise SystemExit(f"{args.into.name} has {key} {earlier[key]}, this run {result[key]}: not one result")
    return {**earlier, "command": f"{earlier['command']}; {result['command']}"}


def _engine(args: argparse.Namespace, activations: str) -> str:
    """The name under which samples with these activations are kept."""
    return "pellucid" if activations == args.activations[0] else f"pellucid {activations}"


def _round(model: BenchModel, args: argparse.Namespace, limits: list[Any], found: Model) -> None:
    """One round of every engine, added to what was `found` of the model, and to `limits`."""
    _warm(model.path)
    large = model.path.stat().st_size > LARGE_NBYTES
    decode, streams = (LARGE_DECODE, ()) if large else (DECODE, STREAMS)
    options = ["--prefill", str(PREFILL), "--decode", str(decode), "--repeats", str(args.repeats)]
    options += ["--streams", ",".join(map(str, streams or (1,)))]
    works = ["prefill", "decode", "profile", *(["streams"] if streams else [])]
    one: dict[str, Any] = {}
    with Neighbours() as others:
        for turn, activations in enumerate(args.activations):
            wanted = [*works, *([] if turn or large else ["llm", "mixed"]), *([] if turn else ["start"])]
            ours = _pellucid(model.path, args, activations, [*options, "--only", ",".join(wanted)])
            one[_engine(args, activations)] = ours["samples"]
            _note(ours, _engine(args, activations), limits, found)
            if turn == 0 and args.llama_bin is not None:
                peer = LlamaCpp(args.llama_bin, model.peer_path, args.threads)
                one["llama.cpp"] = peer.measure(PREFILL, decode, streams, args.repeats)
    found["rounds"].append({**one, "others": others.share})


def _note(ours: dict[str, Any], engine: str, limits: list[Any], found: Model) -> None:
    """What every run tells beside its samples: limits of the machine, the program, where its time went."""
    limits += ours["limits"]
    found.setdefault("program", ours["program"])
    found.setdefault("file_nbytes", ours["model"]["file_nbytes"])
    found.setdefault("profile", {}).setdefault(engine, {}).update(ours["profile"])


def _threads(model: BenchModel, args: argparse.Namespace, limits: list[Any], found: Model) -> None:
    if args.threads == 1 or model.path.stat().st_size > LARGE_NBYTES:
        return
    options = ["--prefill", str(PREFILL), "--decode", str(DECODE), "--only", "prefill,decode", "--repeats", "2"]
    with Neighbours() as others:
        counts = {}
        for count in (1, args.threads):
            ours = _pellucid(model.path, args, args.activations[0], [*options, "--threads", str(count)])
            counts[str(count)] = ours["samples"]
    _note(ours, "pellucid", limits, found)
    found["threads"] = {"counts": counts, "others": others.share}


def _context(model: BenchModel, args: argparse.Namespace, limits: list[Any], found: Model) -> None:
    if model.name not in WITH_CONTEXT:
        return
    options = ["--only", "context,profile", "--context", ",".join(map(str, CONTEXTS)), "--repeats", "1"]
    long: dict[str, Any] = {}
    with Neighbours() as others:
        for activations in args.activations:
            ours = _pellucid(model.path, args, activations, [*options, "--streams", "1", "--decode", "16"])
            long[_engine(args, activations)] = ours["samples"]
            at_end = {key: profile for key, profile in ours["profile"].items() if "_at_" in key}
            _note({**ours, "profile": at_end}, _engine(args, activations), limits, found)
        if args.llama_bin is not None:
            peer = LlamaCpp(args.llama_bin, model.peer_path, args.threads)
            long["llama.cpp"] = peer.measure_contexts(PEER_CONTEXTS)
    found["long"] = {**long, "others": others.share}


def _quality(model: BenchModel, args: argparse.Namespace, limits: list[Any], found: Model) -> None:
    if golden_quality.has_golden(model.name):
        found["quality"] = {
            _engine(args, activations): golden_quality.quality(model, activations) for activations in args.activations
        }
        if args.llama_bin is not None and (server := args.llama_bin / "llama-server").is_file():
            found["quality"]["llama.cpp"] = golden_quality.peer_quality(server, model, args.threads)


def _pellucid(path: Path, args: argparse.Namespace, activations: str, options: list[str]) -> dict[str, Any]:
    """`pellucid bench` in a fresh process."""
    with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
        command = [sys.executable, "-m", "pellucid", "bench", path, "--threads", str(args.threads), "--json", file.name]
        chosen = [*(["--isa", args.isa] if args.isa else []), "--activations", activations]
        timed_command.run([*command, *options, *chosen])
        found: dict[str, Any] = json.load(file)
    return found


def _warm(path: Path) -> None:
    """Read a file once, so that no engine has to wait for the disk."""
    if path.is_file():
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def round_medians(model: Model, engine: str, workload: str) -> list[float]:
    """One value a round: the median of its repeats. Empty if this engine did not do that work."""
    rounds = [*model["rounds"], *([model["long"]] if "long" in model else [])]
    found: list[list[float]] = [samples.get(workload, []) for one in rounds if (samples := one.get(engine))]
    return [statistics.median(samples) for samples in found if samples]


def median(model: Model, engine: str, workload: str) -> float | None:
    """Over the rounds; None if this engine did not do that work."""
    found = round_medians(model, engine, workload)
    return statistics.median(found) if found else None


def workloads(model: Model) -> list[str]:
    """All that Pellucid did, in order."""
    done = [*model["rounds"][:1], *([model["long"]] if "long" in model else [])]
    return list(dict.fromkeys(key for one in done for key in one["pellucid"]))


def engines(model: Model) -> list[str]:
    """Those that were measured: Pellucid with its first activations, with others, then the peer."""
    names = {name for one in [*model["rounds"], model.get("long", {})] for name in one} - {"others"}
    return sorted(names, key=lambda name: (name == "llama.cpp", name))


def _public(arguments: list[str]) -> list[str]:
    """Arguments with the paths of this machine left out."""
    return ["…" if "/" in argument else argument for argument in arguments]


def _progress(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
