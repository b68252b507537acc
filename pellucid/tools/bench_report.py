"""What `pellucid bench` found, as rows of a table: each speed beside what the machine can do at most."""

from __future__ import annotations

import re
import statistics
from dataclasses import dataclass
from typing import Any

from pellucid.tools.bench import START_CONTEXT
from pellucid.tools.bench_profile import PARTS, Profile


@dataclass(frozen=True)
class Row:
    """One line: the work, its median in its unit, and what that is in physical units, with the share of the limit."""

    work: str
    value: str
    achieved: str = ""
    of_limit: str = ""


_TITLES = {
    r"prefill_(\d+)": "prefill, {} tokens",
    r"prefill_(\d+)_at_(\d+)": "prefill, the last {} of {} tokens",
    r"decode_1": "decode, 1 stream",
    r"decode_1_at_(\d+)": "decode, 1 stream, at {} tokens of context",
    r"streams_1": "decode, 1 stream, total",
    r"streams_(\d+)": "decode, {} streams, total",
    r"llm_decode": "decode through LLM (tokenizer, scheduler, sampler)",
    r"mixed": "mixed load through LLM, prompts and answers, total",
    r"load": "load",
    r"first_token": "process start to first token",
    r"exit": "process start to exit with one token",
    r"peak_mib": "peak memory of that process",
}
_UNITS = {"load": "s", "first_token": "s", "exit": "s", "peak_mib": "MiB"}


def title(key: str) -> str:
    for pattern, text in _TITLES.items():
        if match := re.fullmatch(pattern, key):
            return text.format(*(f"{int(number):,}" for number in match.groups()))
    raise ValueError(f"no such work: {key}")


def unit(key: str) -> str:
    """Lower is better unless it is tokens a second."""
    return _UNITS.get(key, "tok/s")


def best_limits(limits: list[dict[str, Any]]) -> dict[str, float]:
    """The best reading of each limit: what the machine can do when it is left alone."""
    return {key: max(one[key] for one in limits) for key, value in limits[0].items() if isinstance(value, float)}


def limits_line(limits: list[dict[str, Any]]) -> str:
    best, one = best_limits(limits), limits[0]
    threads = f"with {one['num_threads']}"
    read = f"read {best['read_one'] / 1e9:.1f} GB/s with 1 thread, {best['read_all'] / 1e9:.1f} {threads}"
    multiply = (
        f"{best['float_all'] / 1e9:,.0f} Gflop/s of float32, {best['integer_all'] / 1e9:,.0f} Gop/s of 16-bit integers"
    )
    return f"{read}; {one['isa']} multiply-adds {threads} threads: {multiply}"


def rates(program: dict[str, Any], key: str, value: float) -> tuple[float, float]:
    """(bytes read a second, operations a second) at `value` tokens a second; 0 for what does not bind that work.

    A step of decoding reads all weights once, and the keys and values of each stream's context.
    """
    numbers = [int(number) for number in re.findall(r"\d+", key)]
    flops = program["flops_per_token"] + program["flops_per_logit_row"]
    if key.startswith("prefill"):
        return 0.0, value * (program["flops_per_token"] + program["flops_per_logit_row"] / numbers[0])
    if key.startswith("streams"):
        return value / numbers[0] * program["weight_nbytes"], value * flops
    if key.startswith("decode_1") or key == "llm_decode":
        context = numbers[1] if len(numbers) > 1 else 0
        kv = sum(min(context, window or context) * nbytes for window, nbytes in program["kv"])
        return value * (program["weight_nbytes"] + kv), 0.0
    return 0.0, 0.0


def row(key: str, value: float, program: dict[str, Any], limits: list[dict[str, Any]], file_nbytes: int) -> Row:
    read, operations = rates(program, key, value)
    best = best_limits(limits)
    achieved = [f"{read / 1e9:.1f} GB/s"] if read else []
    shares = [f"{read / best['read_all']:.0%} of reading"] if read else []
    if operations:
        limit = max(best["integer_all"], best["float_all"])
        achieved.append(f"{operations / 1e9:,.0f} Gop/s")
        shares.append(f"{operations / limit:.0%} of arithmetic")
    if key == "peak_mib":
        achieved = [f"{value * 2**20 / file_nbytes:.2f} × the file"]
        shares = [f"{value / memory_goal(program, file_nbytes):.0%} of 1.15 × file + KV + 90 MiB"]
    return Row(title(key), f"{number(value)} {unit(key)}", ", ".join(achieved), ", ".join(shares))


def rows(result: dict[str, Any]) -> list[Row]:
    """One for each work that was measured, in the order it was."""
    return [
        row(key, statistics.median(found), result["program"], result["limits"], result["model"]["file_nbytes"])
        for key, found in result["samples"].items()
    ]


def profile_table(profile: dict[str, Profile]) -> list[list[str]]:
    """Where the time of a step goes: a head, and a row for each work."""
    rows = [["a step of", "takes", *PARTS.values()]]
    for key, found in profile.items():
        shares = [f"{found[part]:.0%}" for part in PARTS]
        rows.append([title(key), f"{number(found['step'] * 1e3)} ms", *shares])
    return rows


def memory_goal(program: dict[str, Any], file_nbytes: int) -> float:
    """MiB that a process may take at most: 1.15 × file + keys and values of START_CONTEXT tokens + 90 MiB."""
    kv: int = sum(nbytes for _, nbytes in program["kv"]) * min(START_CONTEXT, program["context_length"])
    return (1.15 * file_nbytes + kv) / 2**20 + 90


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
