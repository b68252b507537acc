"""The result of `pellucid bench serve` as a picture: what clients saw, over the time of the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pellucid.tools.svg import AFTER, INK, OTHER, SOFT, Svg, line_panel, number

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
        _over_time(picture, row, f"{label}, ms", seconds, [(n, _COLOURS[n], p) for n, p in lines.items()])
    rate = [(w["at"], w["new_tokens_per_second"]) for w in timeline]
    _over_time(picture, 2, "tokens a second, all clients", seconds, [("", INK, rate)])
    return picture.render()


def _over_time(
    picture: Svg,
    row: int,
    label: str,
    seconds: float,
    lines: Sequence[tuple[str, str, Sequence[tuple[float, float]]]],
) -> None:
    ticks = [(i / 4, f"{number(seconds * i / 4)} s") for i in range(5)]
    shares = [(name, colour, [(at / seconds, y) for at, y in points]) for name, colour, points in lines]
    line_panel(picture, (_LEFT, 34 + row * _PANEL, _WIDTH, _HEIGHT), label, ticks, shares)
