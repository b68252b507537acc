"""Measure llama.cpp on the same work with its own tools: llama-bench, llama-batched-bench and llama-completion.

Each keeps its defaults (f16 KV cache, flash attention "auto", repacked weights), except for the thread count, the
lengths, and `--no-warmup` for the cold start, which is to llama.cpp's favour.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pellucid.tools import timed_command
from pellucid.tools.bench import (
    CONTEXT_DECODE_TOKENS,
    START_CONTEXT,
    START_PROMPT,
    STREAM_DECODE_TOKENS,
    STREAM_PROMPT_TOKENS,
    Samples,
)

TOOLS = ("llama-bench", "llama-batched-bench", "llama-completion")


def version(bin_dir: Path) -> str:
    """As llama-completion states it, with the compiler. SystemExit if a tool is missing."""
    if missing := [tool for tool in TOOLS if not (bin_dir / tool).is_file()]:
        raise SystemExit(f"{bin_dir} lacks {', '.join(missing)}; build llama.cpp and pass its folder of programs")
    done = subprocess.run([bin_dir / "llama-completion", "--version"], capture_output=True, text=True, check=True)
    return " ".join((done.stdout + done.stderr).split())


class LlamaCpp:
    """One model, run by the programs in `bin_dir`. Samples have the keys of `pellucid bench`."""

    def __init__(self, bin_dir: Path, model: Path, threads: int) -> None:
        self._bin_dir = bin_dir
        self._common: list[Any] = ["-m", model, "-t", str(threads)]

    def measure(self, prefill: int, decode: int, streams: Sequence[int], starts: int) -> Samples:
        """Prefill, decode, each number of streams, and the cold start `starts` times."""
        samples = {
            f"prefill_{prefill}": self._bench("-p", prefill, "-n", 0),
            "decode_1": self._bench("-p", 0, "-n", decode),
            **(self._streams(streams) if streams else {}),
        }
        once = ["-p", START_PROMPT, "-n", "1", "-c", str(START_CONTEXT), "-no-cnv", "--no-warmup"]
        found = [self._run("llama-completion", *once, "--no-display-prompt") for _ in range(starts)]
        samples["first_token"] = [finished.first_output for finished in found]
        samples["exit"] = [finished.seconds for finished in found]
        samples["peak_mib"] = [finished.peak_mib for finished in found]
        return samples

    def measure_contexts(self, contexts: Sequence[int]) -> Samples:
        """Prefill of long contexts, all but their last tokens, and decoding of these."""
        prompts = ",".join(str(context - CONTEXT_DECODE_TOKENS) for context in contexts)
        samples: Samples = {}
        for found in self._batched(max(contexts), prompts, CONTEXT_DECODE_TOKENS, "1"):
            context = found["pp"] + CONTEXT_DECODE_TOKENS
            samples[f"prefill_{context}"] = [float(found["speed_pp"])]
            samples[f"decode_1_at_{context}"] = [float(found["speed_tg"])]
        return samples

    def _bench(self, *arguments: object) -> list[float]:
        """Tokens a second of llama-bench, which warms up first."""
        [found] = json.loads(self._run("llama-bench", "-r", 1, "-o", "json", *arguments).stdout)
        rates: list[float] = found["samples_ts"]
        return rates

    def _streams(self, counts: Sequence[int]) -> Samples:
        context = max(counts) * (STREAM_PROMPT_TOKENS + STREAM_DECODE_TOKENS)
        together = ",".join(map(str, counts))
        found = self._batched(context, STREAM_PROMPT_TOKENS, STREAM_DECODE_TOKENS, together)
        return {f"streams_{one['pl']}": [float(one["speed_tg"])] for one in found}

    def _batched(self, context: int, prompts: object, new_tokens: int, streams: str) -> list[dict[str, Any]]:
        """What llama-batched-bench found for each length of prompts and number of streams."""
        lengths = ["-npp", prompts, "-ntg", new_tokens, "-npl", streams]
        printed = self._run("llama-batched-bench", "-c", context, "--output-format", "jsonl", *lengths).stdout
        return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]

    def _run(self, tool: str, *arguments: object) -> timed_command.Finished:
        return timed_command.run([self._bin_dir / tool, *self._common, *map(str, arguments)])
