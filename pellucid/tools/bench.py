"""Measure an engine on this machine: prefill, decode, many streams, long contexts, mixed load, cold start, memory.

Everything is a dict of samples, as it goes into a JSON file; bench_report.py makes tables of it.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pellucid import __version__
from pellucid.config import child_environment
from pellucid.errors import InvalidParameter, ResourceError
from pellucid.executors import get_executor
from pellucid.executors.base import BLOCK_SIZE
from pellucid.executors.cores import available_cores
from pellucid.executors.cpu import CpuExecutor, CpuProgram
from pellucid.executors.limits import measure_limits
from pellucid.formats.checkpoint import open_checkpoint
from pellucid.formats.source import resolve
from pellucid.graph.passes.fuse import fuse
from pellucid.models.registry import build_model
from pellucid.sampling import SamplingParams
from pellucid.tools import timed_command
from pellucid.tools.bench_profile import Profile, profile_of
from pellucid.tools.bench_steps import CHUNK, Steps, StepTimer, work_of
from pellucid.tools.doctor import describe_machine
from pellucid.tools.neighbours import Neighbours

KINDS = ("prefill", "decode", "streams", "context", "profile", "llm", "mixed", "start")
STREAM_PROMPT_TOKENS, STREAM_DECODE_TOKENS = 16, 16  # of each of several streams; the prompts are not timed
CONTEXT_DECODE_TOKENS = 32  # the last ones of a long context
MIXED_REQUESTS, MIXED_PROMPT_TOKENS, MIXED_NEW_TOKENS = 12, (16, 128), (8, 32)
START_PROMPT, START_CONTEXT = "Hello", 512

ROOT = Path(__file__).resolve().parents[2]
Samples = dict[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """A work that took `patience` seconds is not repeated. `only`: of KINDS."""

    threads: int | None = None
    isa: str | None = None
    kv_cache_dtype: str = "auto"
    activations: str = "auto"
    prefill: tuple[int, ...] = (512,)
    decode: int = 128
    streams: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    context: tuple[int, ...] = ()
    repeats: int = 3
    patience: float = 10.0
    only: tuple[str, ...] = KINDS

    def __post_init__(self) -> None:
        for name in ("prefill", "streams"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise InvalidParameter(name, f"expected numbers from 1 up, got {getattr(self, name)}")
        if self.decode < 1 or self.repeats < 1:
            raise InvalidParameter("decode", "tokens to decode and repeats start at 1")
        if self.context and min(self.context) <= CONTEXT_DECODE_TOKENS:
            raise InvalidParameter("context", f"expected more than {CONTEXT_DECODE_TOKENS} tokens, got {self.context}")
        if unknown := [name for name in self.only if name not in KINDS]:
            raise InvalidParameter("only", f"there is no work {unknown[0]!r}, expected some of {', '.join(KINDS)}")


@dataclass
class _Bench:
    """What has been measured so far."""

    options: BenchOptions
    say: Callable[[str], None]
    samples: Samples = field(default_factory=dict)

    def measure(self, key: str, work: Callable[[], float]) -> None:
        self.say(key.replace("_", " "))
        start = time.perf_counter()
        found = self.samples.setdefault(key, [])
        found.append(work())
        while len(found) < self.options.repeats and time.perf_counter() - start < self.options.patience:
            found.append(work())


def bench(model: str, options: BenchOptions, say: Callable[[str], None] = lambda what: None) -> dict[str, Any]:
    """Measure `model` (a name or a path, as everywhere); `say` is told what is being measured.

    Raises what loading a model raises, and CommandFailed when the fresh process of the cold start fails.
    """
    path = resolve(model)
    threads = options.threads or available_cores()
    say("limits of the machine")
    limits = [asdict(measure_limits(threads, options.isa))]
    running = _Bench(options, say)
    with Neighbours() as others:
        program, profile = _measure_steps(path, running)
        if {"llm", "mixed"} & set(options.only):
            _measure_llm(path, running, program["context_length"])
        if "start" in options.only:
            _measure_start(path, running, min(START_CONTEXT, program["context_length"]))
    say("limits of the machine")
    limits.append(asdict(measure_limits(threads, options.isa)))
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "version": __version__,
        "commit": source_commit(),
        "machine": asdict(describe_machine()),
        "model": {"name": path.name, "file_nbytes": _file_nbytes(path)},
        "program": program,
        "limits": limits,
        "others": others.share,
        "samples": running.samples,
        "profile": profile,
    }


def _read_through(path: Path) -> None:
    """Brings a model's files into the page cache: it is not the disk that is timed."""
    buffer = bytearray(16 << 20)
    for file in [path] if path.is_file() else filter(Path.is_file, path.iterdir()):
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def _measure_steps(path: Path, running: _Bench) -> tuple[dict[str, Any], dict[str, Profile]]:
    """Prefill, decode, streams and long contexts, on a program of their own.

    Returns what it is and must do, and where the time of its steps goes.
    """
    options = running.options
    stream_length = STREAM_PROMPT_TOKENS + STREAM_DECODE_TOKENS
    stream_blocks = max(options.streams) * -(-stream_length // BLOCK_SIZE)
    longest = max(*options.prefill, options.decode, *options.context)
    executor = get_executor(
        "cpu",
        threads=options.threads,
        isa=options.isa,
        kv_cache_dtype=options.kv_cache_dtype,
        activations=options.activations,
    )
    assert isinstance(executor, CpuExecutor)
    running.say("loading")
    _read_through(path)
    start = time.perf_counter()
    with open_checkpoint(path) as checkpoint:
        config, graph = build_model(checkpoint)
        if longest > config.context_length:
            raise InvalidParameter("context", f"{longest} tokens exceed the model's context of {config.context_length}")
        graph = fuse(graph)
        program = executor.compile(graph, max(stream_blocks, -(-longest // BLOCK_SIZE)))
    running.samples["load"] = [time.perf_counter() - start]
    work = work_of(graph, executor.kv_block_nbytes(graph))
    timer = StepTimer(program, config.vocab_size, stream_length)
    try:
        timer.prefill(64)  # wakes threads, and the pages of the arena
        if "prefill" in options.only:
            for count in options.prefill:
                running.measure(f"prefill_{count}", lambda count=count: timer.prefill(count).rate)  # type: ignore[misc]
        if "decode" in options.only:
            running.measure("decode_1", lambda: timer.decode(1, 0, options.decode).rate)
        if "streams" in options.only:
            timer.prefill(STREAM_PROMPT_TOKENS, max(options.streams))
            for count in options.streams:
                running.measure(f"streams_{count}", lambda count=count: _streams(timer, count))  # type: ignore[misc]
        if options.context and "context" in options.only:
            _measure_context(timer, running)
        profile = _measure_profile(program, timer, running) if "profile" in options.only else {}
    finally:
        program.close()
    info = program.info
    about = {name: getattr(info, name) for name in ("isa", "threads", "kv_cache_dtype", "activations")}
    return {**about, "context_length": config.context_length, **asdict(work)}, profile


def _streams(timer: StepTimer, count: int) -> float:
    return timer.decode(count, STREAM_PROMPT_TOKENS, STREAM_DECODE_TOKENS).rate


def _measure_context(timer: StepTimer, running: _Bench) -> None:
    """Prefill of the longest context, with the rates on the way; then each context's last tokens, one by one."""
    *shorter, longest = sorted(running.options.context)

    def prefill() -> float:
        steps = timer.prefill(longest)
        for context in shorter:
            running.samples.setdefault(f"prefill_{context}", []).append(steps.until(context).rate)
        return steps.rate

    running.measure(f"prefill_{longest}", prefill)
    for context in (*shorter, longest):
        running.measure(f"decode_1_at_{context}", lambda context=context: _at_end(timer, context).rate)  # type: ignore[misc]


def _at_end(timer: StepTimer, context: int) -> Steps:
    return timer.decode(1, context - CONTEXT_DECODE_TOKENS, CONTEXT_DECODE_TOKENS)


def _measure_profile(program: CpuProgram, timer: StepTimer, running: _Bench) -> dict[str, Profile]:
    """The works that were asked for, once more; of a long context the last step's worth of a prompt, and decoding."""
    options = running.options
    prefill, streams = min(options.prefill[0], CHUNK), max(options.streams)
    works = {
        f"prefill_{prefill}": lambda: timer.prefill(prefill),
        "decode_1": lambda: timer.decode(1, 0, options.decode),
    }
    if streams > 1:
        works[f"streams_{streams}"] = lambda: timer.decode(streams, STREAM_PROMPT_TOKENS, STREAM_DECODE_TOKENS)
    if options.context and (context := max(options.context)) > CHUNK:
        works[f"prefill_{CHUNK}_at_{context}"] = lambda: timer.chunk(context - CHUNK, CHUNK)
        works[f"decode_1_at_{context}"] = lambda: _at_end(timer, context)
    running.say("where the time goes")
    return {key: profile_of(program, work) for key, work in works.items()}


def _measure_llm(path: Path, running: _Bench, context_length: int) -> None:
    """Through tokenizer, scheduler, sampler and detokenizer: one stream, and prompts and answers of mixed lengths."""
    from pellucid.engine.llm import LLM

    options = running.options
    length = max(2 * options.decode, MIXED_PROMPT_TOKENS[1] + MIXED_NEW_TOKENS[1])
    running.say("loading")
    with LLM(
        str(path),
        threads=options.threads,
        isa=options.isa,
        kv_cache_dtype=options.kv_cache_dtype,
        activations=options.activations,
        max_model_len=min(length, context_length),
        max_num_seqs=MIXED_REQUESTS,
    ) as llm:
        vocab_size = llm.tokenizer.vocab_size
        rng = np.random.default_rng(0)

        def params(count: int) -> SamplingParams:
            return SamplingParams(max_tokens=count, temperature=0, ignore_eos=True)

        def one() -> float:
            [answer] = llm.generate("Once upon a time", params(options.decode))
            rate = answer.metrics.decode_tokens_per_second
            if rate is None:
                raise ResourceError(f"no answer of {options.decode} tokens: {answer.outputs[0].error}")
            return rate

        def mixed() -> float:
            lengths = rng.integers(*MIXED_PROMPT_TOKENS, MIXED_REQUESTS, endpoint=True)
            counts = rng.integers(*MIXED_NEW_TOKENS, MIXED_REQUESTS, endpoint=True)
            prompts = [rng.integers(0, vocab_size, length).tolist() for length in lengths]
            start = time.perf_counter()
            llm.generate(prompts, [params(int(count)) for count in counts], progress=False)
            return int(lengths.sum() + counts.sum()) / (time.perf_counter() - start)

        if "llm" in options.only:
            running.measure("llm_decode", one)
        if "mixed" in options.only:
            running.measure("mixed", mixed)


def _measure_start(path: Path, running: _Bench, context: int) -> None:
    """`pellucid run` in fresh processes, after one that is not counted.

    That one brings the file into the page cache and compiles the modules, as pip does when it installs a package; a
    checkout need not be (PYTHONDONTWRITEBYTECODE), and compiling it takes longer than all other work of importing it.
    """
    options = running.options
    command: list[str | Path] = [sys.executable, "-m", "pellucid", "run", path, START_PROMPT, "-n", "1", "--raw"]
    command += ["--temp", "0", "--ctx-size", str(context)]  # the same token every time: a random one may show nothing
    command += [] if options.threads is None else ["--threads", str(options.threads)]
    command += [] if options.isa is None else ["--isa", options.isa]
    command += ["--kv-cache-dtype", options.kv_cache_dtype]
    command += [] if options.activations == "auto" else ["--activations", options.activations]
    found: list[timed_command.Finished] = []

    with tempfile.TemporaryDirectory() as compiled:
        environment = child_environment(PYTHONPYCACHEPREFIX=compiled, PYTHONDONTWRITEBYTECODE="")

        def once() -> float:
            found.append(timed_command.run(command, environment))
            return found[-1].first_output

        timed_command.run(command, environment)
        running.measure("first_token", once)
    running.samples["exit"] = [finished.seconds for finished in found]
    running.samples["peak_mib"] = [finished.peak_mib for finished in found]


def save(result: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def source_commit() -> str | None:
    """Short hash of the checkout that this code is in, with "+" when its files differ from it; None outside of one."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if not (ROOT / "pyproject.toml").is_file():
            return None
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "pellucid", "benchmarks", "CMakeLists.txt")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _file_nbytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
