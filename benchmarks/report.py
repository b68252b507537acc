"""Benchmark results as tables: on the terminal and in docs/performance.md."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from neighbours import TOLERABLE
from rounds import round_medians
from workloads import PREFILL_TOKENS, WORKLOADS

RESULTS = Path(__file__).with_name("results")


def save(result: dict[str, Any]) -> Path:
    path = RESULTS / f"{result['date']}-{result['commit'].rstrip('+')}{'-peers' if result['peer'] else ''}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def header(result: dict[str, Any]) -> list[str]:
    """What was run, on what, from which commit; `commit` ends with "+" when files had been changed since."""
    about = result["machine"]
    return [
        f"machine: {about['cpu']}, {about['cores']} cores, {about['memory_gib']:.0f} GiB, "
        f"{' '.join(about['instruction_sets'])}",
        f"limits: {limits_line(result)}",
        f"other processes: {others_line(result)}",
        f"command: {result['command']}",
        f"commit: {result['commit']}, {result['date']}, {result['rounds']} rounds"
        + (f", beside {result['peer']}" if result["peer"] else ""),
    ]


def others_line(result: dict[str, Any]) -> str:
    """What else ran. With more than a little, figures say how the machine was shared, not how fast an engine is."""
    shares = [one["others"] for model in result["models"] for one in model["rounds"]]
    line = f"{statistics.median(shares):.0%} of the cores (median round), at most {max(shares):.0%}"
    return f"{line}: TOO BUSY, these figures mean little" if max(shares) > TOLERABLE else line


def limits_line(result: dict[str, Any]) -> str:
    """The best reading of each limit over the run: what the machine can do when it is left alone."""
    read, multiply = (max(one[key] for one in result["limits"]) for key in ("read_gb_s", "sgemm_gflop_s"))
    return f"{read:.1f} GB/s read, {multiply:.0f} Gflop/s float32 matrix product ({result['threads']} threads, NumPy)"


def model_table(model: dict[str, Any]) -> str:
    """A Markdown table: medians over the rounds, what that is in physical units, and the ratio to the peer."""
    has_peer = "llama.cpp" in model["rounds"][0]
    head = ["work", "Pellucid", "achieved"] + (["llama.cpp", "ratio (lowest to highest round)"] if has_peer else [])
    rows = [head, ["---"] * len(head)]
    for name, workload in WORKLOADS.items():
        ours = round_medians(model, "pellucid", name)
        row = [
            workload.title,
            f"{_number(statistics.median(ours))} {workload.unit}",
            achieved(model["program"], name, statistics.median(ours)),
        ]
        if has_peer:
            theirs = round_medians(model, "llama.cpp", name)
            row.append(f"{_number(statistics.median(theirs))} {workload.unit}" if theirs else "")
            row.append(_ratio(ours, theirs, workload.lower_is_better) if theirs else "")
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines[1] = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join(lines)


def achieved(program: dict[str, Any], workload: str, value: float) -> str:
    """Weight bytes read a second for decode (each step reads them once), operations a second for prefill."""
    if workload == "prefill":
        flops = program["flops_per_token"] + program["flops_per_logit_row"] / PREFILL_TOKENS
        return f"{value * flops / 1e9:.0f} Gflop/s"
    if workload in ("decode_1", "end_to_end"):
        return f"{value * program['weight_nbytes'] / 1e9:.1f} GB/s"
    if workload.startswith("decode_"):
        streams = int(workload.removeprefix("decode_"))
        flops = program["flops_per_token"] + program["flops_per_logit_row"]
        return f"{value / streams * program['weight_nbytes'] / 1e9:.1f} GB/s, {value * flops / 1e9:.0f} Gflop/s"
    return ""


def _ratio(ours: list[float], theirs: list[float], lower_is_better: bool) -> str:
    """How many times better than the peer, round by round: median, lowest and highest."""
    pairs = zip(ours, theirs, strict=True)
    ratios = [b / a if lower_is_better else a / b for a, b in pairs]
    return f"{statistics.median(ratios):.2f}× ({min(ratios):.2f} to {max(ratios):.2f})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
