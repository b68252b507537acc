"""Benchmark results as tables: on the terminal and in docs/performance.md."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from rounds import round_medians, workloads

from pellucid.tools import bench_report
from pellucid.tools.bench_report import number, unit
from pellucid.tools.neighbours import TOLERABLE

RESULTS = Path(__file__).with_name("results")


def save(result: dict[str, Any]) -> Path:
    kind = ("-peers" if result["peer"] else "") + ("-int8" if result["activations"] == "int8" else "")
    path = RESULTS / f"{result['date']}-{result['commit'].rstrip('+')}{kind}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def header(result: dict[str, Any]) -> list[str]:
    """What was run, on what, from which commit; `commit` ends with "+" when files had been changed since."""
    about = result["machine"]
    return [
        f"activations: {result['activations']}",
        f"machine: {about['cpu']}, {about['cores']} cores, {about['memory_gib']:.0f} GiB, "
        f"{' '.join(about['instruction_sets'])}",
        f"limits: {bench_report.limits_line(result['limits'])}",
        f"other processes: {others_line(result)}",
        f"command: {result['command']}",
        f"commit: {result['commit']}, {result['date']}" + (f", beside {result['peer']}" if result["peer"] else ""),
    ]


def others_line(result: dict[str, Any]) -> str:
    """What else ran. With more than a little, figures say how the machine was shared, not how fast an engine is."""
    shares = [one["others"] for model in result["models"] for one in model["rounds"]]
    line = f"{statistics.median(shares):.0%} of the cores (median round), at most {max(shares):.0%}"
    return f"{line}: TOO BUSY, these figures mean little" if max(shares) > TOLERABLE else line


def model_table(model: dict[str, Any], limits: list[dict[str, Any]]) -> str:
    """A Markdown table: medians over the rounds, what that is in physical units, and the ratio to the peer."""
    has_peer = "llama.cpp" in model["rounds"][0]
    head = ["work", "Pellucid", "achieved", "share of the limit"]
    rows = [head + (["llama.cpp", "ratio (lowest to highest round)"] if has_peer else [])]
    rows.append(["---"] * len(rows[0]))
    for key in workloads(model):
        ours = round_medians(model, "pellucid", key)
        found = bench_report.row(key, statistics.median(ours), model["program"], limits, model["file_nbytes"])
        row = [found.work, found.value, found.achieved, found.of_limit]
        if has_peer:
            theirs = round_medians(model, "llama.cpp", key)
            row.append(f"{number(statistics.median(theirs))} {unit(key)}" if theirs else "")
            row.append(_ratio(ours, theirs, lower_is_better=unit(key) != "tok/s") if theirs else "")
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines[1] = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join(lines)


def ratios(ours: list[float], theirs: list[float], *, lower_is_better: bool) -> list[float]:
    """How many times better than the peer, round by round."""
    return [b / a if lower_is_better else a / b for a, b in zip(ours, theirs, strict=True)]


def _ratio(ours: list[float], theirs: list[float], *, lower_is_better: bool) -> str:
    found = ratios(ours, theirs, lower_is_better=lower_is_better)
    return f"{statistics.median(found):.2f}× ({min(found):.2f} to {max(found):.2f})"
