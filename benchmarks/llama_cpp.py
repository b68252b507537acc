"""Measure llama.cpp on the same work with its own tools: llama-bench, llama-batched-bench and llama-completion.

Each keeps its defaults (f16 KV cache, flash attention "auto", repacked weights), except for the thread count, the
lengths, and `--no-warmup` for the cold start, which is to llama.cpp's favour.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import commands
from workloads import (
    COLD_START_CONTEXT,
    COLD_START_PROMPT,
    DECODE_TOKENS,
    PREFILL_TOKENS,
    STREAM_COUNTS,
    STREAM_DECODE_TOKENS,
    STREAM_PROMPT_TOKENS,
)

TOOLS = ("llama-bench", "llama-batched-bench", "llama-completion")


def version(bin_dir: Path) -> str:
    """As llama-completion states it, with the compiler. SystemExit if a tool is missing."""
    if missing := [tool for tool in TOOLS if not (bin_dir / tool).is_file()]:
        raise SystemExit(f"{bin_dir} lacks {', '.join(missing)}; build llama.cpp and pass its folder of programs")
    done = subprocess.run([bin_dir / "llama-completion", "--version"], capture_output=True, text=True, check=True)
    return " ".join((done.stdout + done.stderr).split())


def measure(bin_dir: Path, model: Path, threads: int, repeats: int) -> dict[str, list[float]]:
    """Samples by workload: tokens a second, seconds, MiB."""
    samples: dict[str, list[float]] = {}
    common = ["-m", model, "-t", str(threads)]
    bench = [bin_dir / "llama-bench", *common, "-r", str(repeats), "-o", "json"]
    for result in json.loads(commands.run([*bench, "-p", str(PREFILL_TOKENS), "-n", str(DECODE_TOKENS)]).stdout):
        samples["prefill" if result["n_prompt"] else "decode_1"] = result["samples_ts"]
    samples.update(_streams(bin_dir, common, repeats))
    once = [*common, "-p", COLD_START_PROMPT, "-n", "1", "-c", str(COLD_START_CONTEXT), "-no-cnv", "--no-warmup"]
    starts = [commands.run([bin_dir / "llama-completion", *once]) for _ in range(repeats)]
    samples["cold_start"] = [start.seconds for start in starts]
    samples["peak_memory"] = [start.peak_mib for start in starts]
    return samples


def _streams(bin_dir: Path, common: list[Any], repeats: int) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {f"decode_{count}": [] for count in STREAM_COUNTS}
    context = max(STREAM_COUNTS) * (STREAM_PROMPT_TOKENS + STREAM_DECODE_TOKENS)
    command = [bin_dir / "llama-batched-bench", *common, "-c", str(context), "--output-format", "jsonl"]
    command += ["-npp", str(STREAM_PROMPT_TOKENS), "-ntg", str(STREAM_DECODE_TOKENS)]
    command += ["-npl", ",".join(str(count) for count in STREAM_COUNTS)]
    for _ in range(repeats):
        for line in commands.run(command).stdout.splitlines():
            if re.match(r"\{.*\}$", line):
                result = json.loads(line)
                samples[f"decode_{result['pl']}"].append(result["speed_tg"])
    return samples
