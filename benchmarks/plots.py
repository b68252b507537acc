"""Pictures of a result as SVG: bars of ratios, lines over streams and over contexts, and where the time goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from report import ratios
from rounds import CONTEXTS, PREFILL, STREAMS, Model, engines, median, workloads

from pellucid.tools.bench_profile import PARTS
from pellucid.tools.bench_report import title
from pellucid.tools.svg import AFTER, BEFORE, INK, OTHER, SOFT, Svg, line_panel

FASTER, SLOWER, PALE = "#2f7d5b", "#b5533c", "#9cc3b0"
COLOURS = {"pellucid": AFTER, "pellucid int8": FASTER, "llama.cpp": OTHER}
PART_COLOURS = dict(zip(PARTS, (AFTER, "#8fb8de", FASTER, OTHER, "#e3b505", BEFORE), strict=True))
BARS_LEFT, BARS_WIDTH, LINE = 300, 400, 20
BARRED = (f"prefill_{PREFILL}", "decode_1", "streams_32", "first_token", "peak_mib")

Line = tuple[str, str, list[tuple[float, float]]]  # name, colour, points


def pictures(result: dict[str, Any]) -> dict[str, str]:
    """By the ending of its file's name; without those whose part was not measured."""
    models = result["models"]
    streamed = [model for model in models if f"streams_{STREAMS[-1]}" in workloads(model)]
    found = {"": ratio_bars(f"How many times better than {result['peer']}", models)}
    if streamed:
        name = "Decode, tokens a second of all streams together, over 1 to 64 streams"
        panels = [(model["title"], STREAMS, _over(model, "streams_{}")) for model in streamed]
        found["-streams"] = _panels(name, [panels[i : i + 2] for i in range(0, len(panels), 2)])
    if long := [model for model in models if "long" in model]:
        name = "Tokens a second over the length of the context"
        found["-context"] = _panels(name, [_context_panels(model) for model in long])
    if profiled := [model for model in models if model.get("profile")]:
        found["-profile"] = profile_bars("Where the time of a step goes (default activations)", profiled)
    return found


def name_of(picture: str) -> str:
    """The title that a picture has."""
    return picture.partition("<title>")[2].partition("</title>")[0]


def ratio_bars(name: str, models: Sequence[Model]) -> str:
    """A bar for each work of each model, with a pale one beneath for other activations; a line marks a ratio of one."""
    groups = [(model["title"], _bars(model)) for model in models]
    largest = max((ratio for _, bars in groups for _, _, ratio in bars), default=1.0)
    scale = BARS_WIDTH / max(largest, 1.0)
    height = 40 + sum(LINE + 6 + LINE * len(bars) for _, bars in groups)
    picture, y = Svg(BARS_LEFT + BARS_WIDTH + 70, height + 12, name), 34
    picture.text(8, 20, name, bold=True)
    picture.line([(BARS_LEFT + scale, 34), (BARS_LEFT + scale, height)], INK, 1, dash="3 3")
    for group, bars in groups:
        y += LINE + 6
        picture.text(8, y - 7, group, bold=True)
        for label, default, ratio in bars:
            picture.text(BARS_LEFT - 8, y + 11, label, anchor="end", fill=INK if default else SOFT)
            colour = (FASTER if default else PALE) if ratio >= 1 else SLOWER if default else "#dcaa9d"
            picture.rect(BARS_LEFT, y, ratio * scale, 14, colour)
            picture.text(BARS_LEFT + ratio * scale + 6, y + 11, f"{ratio:.2f}×")
            y += LINE
    return picture.render()


def _bars(model: Model) -> list[tuple[str, bool, float]]:
    """(label, whether with default activations, median ratio)"""
    found = []
    for key in BARRED:
        for engine in engines(model)[:-1]:
            if each := sorted(ratios(model, engine, "llama.cpp", key)):
                other = "" if engine == "pellucid" else f", {engine.removeprefix('pellucid ')}"
                found.append((f"{title(key)}{other}", not other, each[len(each) // 2]))
    return found


def profile_bars(name: str, models: Sequence[Model]) -> str:
    """A bar of shares for each work of each model."""
    groups = [(model["title"], model["profile"]["pellucid"]) for model in models]
    height = 66 + sum(LINE + 6 + LINE * len(works) for _, works in groups)
    picture, x, y = Svg(BARS_LEFT + BARS_WIDTH + 170, height, name), 8, 60
    picture.text(8, 20, name, bold=True)
    for part, label in PARTS.items():
        picture.rect(x, 34, 12, 12, PART_COLOURS[part])
        picture.text(x + 16, 44, label)
        x += 34 + round(5.8 * len(label))
    for group, works in groups:
        y += LINE + 6
        picture.text(8, y - 7, group, bold=True)
        for key, shares in works.items():
            picture.text(BARS_LEFT - 8, y + 11, title(key), anchor="end")
            at = float(BARS_LEFT)
            for part in PARTS:
                picture.rect(at, y, shares[part] * BARS_WIDTH, 14, PART_COLOURS[part])
                at += shares[part] * BARS_WIDTH
            picture.text(BARS_LEFT + BARS_WIDTH + 6, y + 11, f"{shares['step'] * 1e3:,.3g} ms")
            y += LINE
    return picture.render()


def _context_panels(model: Model) -> list[tuple[str, Sequence[int], list[Line]]]:
    return [
        (f"{model['title']}: {what}", CONTEXTS, _over(model, key))
        for what, key in (("decode at the end", "decode_1_at_{}"), ("prefill of all of it", "prefill_{}"))
    ]


def _over(model: Model, key: str) -> list[Line]:
    """A line for each engine, through the numbers that it was measured at."""
    numbers = STREAMS if key.startswith("streams") else CONTEXTS
    lines = []
    for engine in engines(model):
        points = [(float(n), value) for n in numbers if (value := median(model, engine, key.format(n))) is not None]
        lines.append((engine, COLOURS.get(engine, INK), points))
    return lines


def _panels(name: str, rows: Sequence[Sequence[tuple[str, Sequence[int], list[Line]]]]) -> str:
    """Panels of (label, numbers of the axis, lines) in rows; the axis has the same room between all its numbers."""
    left, width, height, gap = 60, 300, 130, 120
    across = max(len(row) for row in rows)
    picture = Svg(left + across * (width + gap), 40 + len(rows) * (height + 62), name)
    picture.text(8, 20, name, bold=True)
    for down, row in enumerate(rows):
        for column, (label, numbers, lines) in enumerate(row):
            place = {float(n): i / (len(numbers) - 1) for i, n in enumerate(numbers)}
            line_panel(
                picture,
                (left + column * (width + gap), 34 + down * (height + 62), width, height),
                label,
                [(place[float(n)], f"{n:,}") for n in numbers],
                [(engine, colour, [(place[x], y) for x, y in points]) for engine, colour, points in lines],
            )
    return picture.render()
