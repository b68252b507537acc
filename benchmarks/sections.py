"""What a result shows over all models, as Markdown tables: quality beside speed, long contexts, threads, profile.

Each takes a result and returns a head and rows, of the models that the part was measured for.
"""

from __future__ import annotations

import statistics
from typing import Any

from report import table
from rounds import CONTEXTS, DECODE, PREFILL, Model, engines, median

from pellucid.tools import bench_report
from pellucid.tools.bench_profile import PARTS
from pellucid.tools.bench_report import number

Rows = list[list[str]]
LONGEST = max(CONTEXTS)


def text(result: dict[str, Any]) -> str:
    """Every section that has been measured, with its heading."""
    sections = {
        "Quality beside speed": quality(result),
        "Long contexts": contexts(result),
        "Growth with threads": threads(result),
        "Where the time goes": profile(result),
    }
    return "\n\n".join(f"## {name}\n\n{table(rows)}" for name, rows in sections.items() if len(rows) > 1)


def quality(result: dict[str, Any]) -> Rows:
    works = {f"prefill_{PREFILL}": f"prefill {PREFILL}", "decode_1": "decode", "streams_32": "32 streams"}
    rows = [["model", "engine", "mean KL to float32", "same top token", *(f"{work}, tok/s" for work in works.values())]]
    for model in result["models"]:
        for engine, found in model.get("quality", {}).items():
            speeds = [_number(median(model, engine, key)) for key in works]
            name = f"pellucid {result['activations'].partition(',')[0]}" if engine == "pellucid" else engine
            rows.append([model["title"], name, f"{found['mean_kl']:.2g}", f"{found['same_top']:.1%}", *speeds])
    return rows


def contexts(result: dict[str, Any]) -> Rows:
    longest = f"{LONGEST:,}"
    head = ["model", "engine", f"decode at {longest}, tok/s", f"share of decode to {DECODE}"]
    rows = [[*head, f"prefill of {longest}, tok/s", f"share of prefill of {PREFILL}"]]
    for model in result["models"]:
        for engine in engines(model) if "long" in model else []:
            decode, prefill = context_shares(model, engine)
            rows.append(
                [model["title"], engine, _number(median(model, engine, f"decode_1_at_{LONGEST}")), _share(decode)]
            )
            rows[-1] += [_number(median(model, engine, f"prefill_{LONGEST}")), _share(prefill)]
    return rows


def context_shares(model: Model, engine: str) -> tuple[float | None, float | None]:
    """Speed at the longest context beside that at a short one: of decode, and of prefill."""
    pairs = ((f"decode_1_at_{LONGEST}", "decode_1"), (f"prefill_{LONGEST}", f"prefill_{PREFILL}"))
    found = [(median(model, engine, long), median(model, engine, short)) for long, short in pairs]
    decode, prefill = (long / short if long and short else None for long, short in found)
    return decode, prefill


def threads(result: dict[str, Any]) -> Rows:
    rows = [["model", *(f"{work} with {n}" for work in ("prefill", "decode") for n in ("1", "all")), "growth"]]
    for model in result["models"]:
        if growths := thread_growths(model):
            values = [value for pair in growths.values() for value in pair]
            growth = ", ".join(f"{work} {several / one:.2f}×" for work, (one, several) in growths.items())
            rows.append([model["title"], *map(number, values), growth])
    return rows


def thread_growths(model: Model) -> dict[str, tuple[float, float]]:
    """Tokens a second with one thread and with all, of prefill and decode; empty if that was not measured."""
    if "threads" not in model:
        return {}
    one, several = model["threads"]["counts"].values()
    keys = {"prefill": f"prefill_{PREFILL}", "decode": "decode_1"}
    return {name: (statistics.median(one[key]), statistics.median(several[key])) for name, key in keys.items()}


def profile(result: dict[str, Any]) -> Rows:
    """Shares of the parts of a step, and how near the limit the multiplying is while it lasts."""
    rows = [["model", "a step of", "takes", *PARTS.values(), "while multiplying"]]
    for model in result["models"]:
        for key, found in model.get("profile", {}).get("pellucid", {}).items():
            shares = [f"{found[part]:.0%}" for part in PARTS]
            takes = f"{number(found['step'] * 1e3)} ms"
            rows.append(
                [model["title"], bench_report.title(key), takes, *shares, _while_multiplying(model, key, result)]
            )
    return rows


def _while_multiplying(model: Model, key: str, result: dict[str, Any]) -> str:
    """Share of the machine's limit that a work would have if all its time went to its matrices."""
    found = model["profile"]["pellucid"][key]
    streams = int(key.removeprefix("streams_")) if key.startswith("streams") else 1
    tokens = streams if not key.startswith("prefill") else int(key.split("_")[1])
    busy = found["step"] * (found["multiply"] + found["logits"])
    plain = f"prefill_{tokens}" if key.startswith("prefill") else f"streams_{streams}" if streams > 1 else "decode_1"
    return bench_report.row(plain, tokens / busy, model["program"], result["limits"], model["file_nbytes"]).of_limit


def _number(value: float | None) -> str:
    return "" if value is None else number(value)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
