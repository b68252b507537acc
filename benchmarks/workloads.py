"""The work that is measured, alike for Pellucid and its peers."""

from __future__ import annotations

from dataclasses import dataclass

PREFILL_TOKENS = 512
DECODE_TOKENS = 128  # one stream, from an empty context
STREAM_COUNTS = (8, 32)
STREAM_PROMPT_TOKENS, STREAM_DECODE_TOKENS = 64, 32  # for each of several streams; the prompts are not timed
COLD_START_PROMPT = "Hello"
COLD_START_CONTEXT = 512


@dataclass(frozen=True)
class Workload:
    """One row of a table. `lower_is_better` for seconds and MiB, else it is a rate in tokens a second."""

    title: str
    unit: str
    lower_is_better: bool = False


WORKLOADS = {
    "prefill": Workload(f"prefill, {PREFILL_TOKENS} tokens", "tok/s"),
    "decode_1": Workload(f"decode, 1 stream, {DECODE_TOKENS} tokens", "tok/s"),
    **{f"decode_{n}": Workload(f"decode, {n} streams, total", "tok/s") for n in STREAM_COUNTS},
    "end_to_end": Workload("decode through LLM (tokenizer, scheduler, sampler)", "tok/s"),
    "cold_start": Workload("process start to exit with one token, raw prompt", "s", lower_is_better=True),
    "cold_start_chat": Workload("the same through the chat template, if any", "s", lower_is_better=True),
    "peak_memory": Workload("peak memory, raw prompt", "MiB", lower_is_better=True),
}
