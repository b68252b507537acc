"""Benchmark results as tables: on the terminal and in docs/performance.md."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from rounds import Model, engines, median, round_medians, workloads

from pellucid.tools import bench_report
from pellucid.tools.bench_report import number, unit
from pellucid.tools.neighbours import TOLERABLE

RESULTS = Path(__file__).with_name("results")


def save(result: dict[str, Any], path: Path | None = None) -> Path:
    """Write a result to `path`, or where its date and commit say."""
    if path is None:
        kind = ("-peers" if result["peer"] else "") + profile(result["activations"].split(",")[0])
        path = RESULTS / f"{result['date']}-{result['commit'].rstrip('+')}{kind}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def profile(activations: str) -> str:
    """What names of results say of another profile than the default."""
    return "" if activations == "int16" else f"-{activations}"


def header(result: dict[str, Any]) -> list[str]:
    """What was run, on what, from which commit; `commit` ends with "+" when files had been changed since."""
    about = result["machine"]
    return [
        f"activations: {result['activations']}",
        f"machine: {about['cpu']}, {about['cores']} cores, {about['memory_gib']:.0f} GiB, "
        f"{' '.join(about['instruction_sets'])}",
        f"limits: {limits_line(result)}",
        f"other processes: {others_line(result)}",
        f"command: {result['command']}",
        f"commit: {result['commit']}, {result['date']}" + (f", beside {result['peer']}" if result["peer"] else ""),
    ]


def limits_line(result: dict[str, Any]) -> str:
    return bench_report.limits_line(result["limits"]) if result["limits"] else "not measured"


def others_line(result: dict[str, Any]) -> str:
    """What else ran. With more than a little, figures say how the machine was shared, not how fast an engine is."""
    parts = [one for model in result["models"] for one in (*model["rounds"], *_once(model))]
    shares = [one["others"] for one in parts] or [0.0]
    line = f"{statistics.median(shares):.0%} of the cores (median), at most {max(shares):.0%}"
    return f"{line}: TOO BUSY, these figures mean little" if max(shares) > TOLERABLE else line


def _once(model: Model) -> list[dict[str, Any]]:
    return [model[part] for part in ("threads", "long") if part in model]


def model_table(model: Model, limits: list[dict[str, Any]]) -> str:
    """Medians over the rounds, what that is in physical units, the peer, other activations, and ratios to the peer.

    Empty for a model of which only the other parts were measured.
    """
    if not workloads(model):
        return ""
    ours, *others = engines(model)
    peer = others.pop() if others and others[-1] == "llama.cpp" else None
    several = len(model["rounds"]) > 1
    head = ["work", "Pellucid", "achieved", "share of the limit"]
    if peer:
        head += [peer, "ratio (lowest to highest round)" if several else "ratio"]
    for other in others:
        head += [other.replace("pellucid", "with"), *(["ratio"] if peer else [])]
    rows = [head]
    for key in workloads(model):
        value = median(model, ours, key)
        assert value is not None
        found = bench_report.row(key, value, model["program"], limits, model["file_nbytes"])
        row = [found.work, found.value, found.achieved, found.of_limit]
        if peer:
            row += [_value(model, peer, key), _ratio(model, ours, peer, key)]
        for other in others:
            row += [_value(model, other, key), *([_ratio(model, other, peer, key)] if peer else [])]
        rows.append(row)
    return table(rows)


def table(rows: list[list[str]]) -> str:
    """Markdown of a head and rows."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def ratios(model: Model, engine: str, other: str, key: str) -> list[float]:
    """How many times better `engine` is than `other`, round by round; empty if either did not do this work."""
    ours, theirs = round_medians(model, engine, key), round_medians(model, other, key)
    if not ours or not theirs:
        return []
    return [a / b if unit(key) == "tok/s" else b / a for a, b in zip(ours, theirs, strict=True)]


def _value(model: Model, engine: str, key: str) -> str:
    value = median(model, engine, key)
    return "" if value is None else f"{number(value)} {unit(key)}"


def _ratio(model: Model, engine: str, other: str, key: str) -> str:
    found = ratios(model, engine, other, key)
    if len(found) < 2:
        return "".join(f"{ratio:.2f}×" for ratio in found)
    return f"{statistics.median(found):.2f}× ({min(found):.2f} to {max(found):.2f})"
