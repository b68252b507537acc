"""The pictures of docs/performance.md: ratios, streams, contexts, and where the time goes."""

from __future__ import annotations

import statistics
from typing import Any

import plots
from plots import Line, Panel
from report import ratios
from rounds import CONTEXTS, PREFILL, STREAMS, Model, engines, median, workloads

from pellucid.tools.bench_profile import PARTS
from pellucid.tools.bench_report import title
from pellucid.tools.svg import AFTER, BEFORE, INK, OTHER, number

COLOURS = {"pellucid": AFTER, "pellucid int8": "#2f7d5b", "llama.cpp": OTHER}
PART_COLOURS = (AFTER, "#8fb8de", "#2f7d5b", OTHER, "#e3b505", BEFORE)
BARS = (f"prefill_{PREFILL}", "decode_1", "streams_32", "first_token", "peak_mib")


def pictures(result: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """(title, SVG) by the ending of the file's name; without those whose part was not measured."""
    models: list[Model] = result["models"]
    name = f"How many times better than {result['peer']}"
    groups = [(model["title"], _bars(model)) for model in models]
    pale = {label for model in models for label, _ in _bars(model) if label.startswith("with ")}
    found = {"": (name, plots.ratio_bars(name, groups, pale))}
    if streamed := [model for model in models if f"streams_{STREAMS[-1]}" in workloads(model)]:
        name = "Decode, tokens a second of all streams together, over 1 to 64 streams"
        panels: list[Panel] = [(model["title"], STREAMS, _over(model, "streams_{}", STREAMS)) for model in streamed]
        found["-streams"] = (name, plots.panels(name, [panels[i : i + 2] for i in range(0, len(panels), 2)]))
    if long := [model for model in models if "long" in model]:
        name = "Tokens a second over the length of the context"
        found["-context"] = (name, plots.panels(name, [_context_panels(model) for model in long]))
    if profiled := [model for model in models if model.get("profile")]:
        name = "Where the time of a step goes, with the default activations"
        parts = {part: (text, colour) for (part, text), colour in zip(PARTS.items(), PART_COLOURS, strict=True)}
        steps = [(model["title"], _steps(model)) for model in profiled]
        found["-profile"] = (name, plots.share_bars(name, parts, steps))
    return found


def _bars(model: Model) -> list[tuple[str, float]]:
    """(work, median ratio), each followed by those with other activations."""
    found = []
    for key in BARS:
        for engine in engines(model):
            if engine != "llama.cpp" and (each := ratios(model, engine, "llama.cpp", key)):
                label = title(key) if engine == "pellucid" else engine.replace("pellucid", "with")
                found.append((label, statistics.median(each)))
    return found


def _context_panels(model: Model) -> list[Panel]:
    works = {"decode at the end": "decode_1_at_{}", "prefill of all of it": "prefill_{}"}
    return [(f"{model['title']}: {what}", CONTEXTS, _over(model, key, CONTEXTS)) for what, key in works.items()]


def _over(model: Model, key: str, numbers: tuple[int, ...]) -> list[Line]:
    """A line for each engine, through those numbers that it was measured at."""
    lines = []
    for engine in engines(model):
        points = [(float(n), value) for n in numbers if (value := median(model, engine, key.format(n))) is not None]
        lines.append((engine, COLOURS.get(engine, INK), points))
    return lines


def _steps(model: Model) -> list[tuple[str, dict[str, float], str]]:
    found: dict[str, dict[str, float]] = model["profile"]["pellucid"]
    return [(title(key), shares, f"{number(shares['step'] * 1e3)} ms") for key, shares in found.items()]
