"""The result of `pellucid bench serve` as a picture: what clients saw, over the time of the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pellucid.tools.svg import AFTER, BEFORE, INK, OTHER, SOFT, Svg

_LEFT, _WIDTH, _HEIGHT, _PANEL = 70, 560, 150, 212
_COLOURS = {"p50": AFTER, "p90": SOFT, "p99": OTHER}


def plot(result: dict[str, Any]) -> str:
    """SVG, of a result with a timeline. Each percentile is of what happened between two of the marks below."""
    timeline, seconds = result["timeline"], result["seconds"]
    options = result["options"]
    how = f"{options['concurrency']} clients" if options["rate"] is None else f"{options['rate']:g} requests a second"
    title = f"{result['model']}: {how}, {options['mix']}; {result['new_tokens_per_second']:,.0f} tokens a second"
    picture = Svg(_LEFT + _WIDTH + 70, 34 + 3 * _PANEL, title)
    picture.text(8, 20, title, bold=True)
    times = {"first_token": "time to the first token", "between_tokens": "between tokens"}
    for row, (name, label) in enumerate(times.items()):
        lines = {
            percent: [(w["at"], w[name][percent] * 1e3) for w in timeline if w[name] is not None]
            for percent in _COLOURS
        }
        _panel(picture, 34 + row * _PANEL, f"{label}, ms", seconds, [(n, _COLOURS[n], p) for n, p in lines.items()])
    rate = [(w["at"], w["new_tokens_per_second"]) for w in timeline]
    _panel(picture, 34 + 2 * _PANEL, "tokens a second, all clients", seconds, [("", INK, rate)])
    return picture.render()


def _panel(
    picture: Svg,
    top: float,
    label: str,
    seconds: float,
    lines: Sequence[tuple[str, str, Sequence[tuple[float, float]]]],
) -> None:
    """Lines of (name, colour, points) over axes from 0; the last of two names at one height is moved down."""
    y0, largest = top + 20, max((y for _, _, points in lines for _, y in points), default=0.0) or 1.0
    picture.text(_LEFT, top + 12, label, fill=SOFT)
    for i in range(5):
        y = y0 + _HEIGHT - _HEIGHT * i / 4
        picture.line([(_LEFT, y), (_LEFT + _WIDTH, y)], BEFORE, 1)
        picture.text(_LEFT - 6, y + 4, _number(largest * i / 4), anchor="end", fill=SOFT)
        picture.text(
            _LEFT + _WIDTH * i / 4, y0 + _HEIGHT + 16, f"{_number(seconds * i / 4)} s", anchor="middle", fill=SOFT
        )
    lowest = 0.0
    for name, colour, points in reversed(lines):
        placed = [(_LEFT + x / seconds * _WIDTH, y0 + _HEIGHT - y / largest * _HEIGHT) for x, y in points]
        picture.line(placed, colour, 2)
        if placed:
            lowest = max(lowest + 14, placed[-1][1] + 4)
            picture.text(_LEFT + _WIDTH + 8, lowest, name, fill=colour)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
