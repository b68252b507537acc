"""A little SVG: rectangles, text and plots of lines, for the docs' pictures. The same input gives the same bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

INK, SOFT, BEFORE, AFTER, OTHER = "#24292f", "#6e7781", "#d8dee4", "#2f6fb5", "#c4602b"


class Svg:
    """A picture of `width` × `height` pixels on white, to be drawn into and then rendered."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        ]

    def rect(self, x: float, y: float, width: float, height: float, fill: str) -> None:
        self._parts.append(
            f'<rect x="{_number(x)}" y="{_number(y)}" width="{_number(width)}" height="{_number(height)}" '
            f'fill="{fill}"/>'
        )

    def line(self, points: Iterable[tuple[float, float]], colour: str, width: float = 1.5, dash: str = "") -> None:
        path = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{_number(width)}"{dashed}/>'
        )

    def text(
        self, x: float, y: float, text: str, *, anchor: str = "start", fill: str = INK, bold: bool = False
    ) -> None:
        """`anchor`: whether x is the text's start, middle or end; y is its base line."""
        style = f'text-anchor="{anchor}" fill="{fill}"' + (' font-weight="bold"' if bold else "")
        self._parts.append(f'<text x="{_number(x)}" y="{_number(y)}" {style}>{escape(text)}</text>')

    def render(self) -> str:
        return "\n".join([*self._parts, "</svg>", ""])


def _number(value: float) -> str:
    """Rounded so far that no machine's arithmetic shows."""
    return f"{round(value, 1) + 0.0:g}"


def line_panel(
    picture: Svg,
    place: tuple[float, float, float, float],
    label: str,
    ticks: Sequence[tuple[float, str]],
    lines: Sequence[tuple[str, str, Sequence[tuple[float, float]]]],
) -> None:
    """Lines of (name, colour, points) over a height from 0 to the largest, in (left, top, width, height).

    x of points and of ticks is a share of the width. Names stand at the lines' ends, moved down where they would meet.
    """
    left, top, width, height = place
    y0, largest = top + 20, 4 * _round_up(max((y for _, _, points in lines for _, y in points), default=0.0) / 4)
    picture.text(left, top + 12, label, fill=SOFT)
    for i in range(5):
        y = y0 + height - height * i / 4
        picture.line([(left, y), (left + width, y)], BEFORE, 1)
        picture.text(left - 6, y + 4, number(largest * i / 4), anchor="end", fill=SOFT)
    for x, text in ticks:
        picture.text(left + x * width, y0 + height + 16, text, anchor="middle", fill=SOFT)
    ends = []
    for name, colour, points in lines:
        placed = [(left + x * width, y0 + height - y / largest * height) for x, y in points]
        picture.line(placed, colour, 2)
        if placed:
            ends.append((placed[-1][1] + 4, name, colour))
    lowest = 0.0
    for y, name, colour in sorted(ends):
        lowest = max(lowest + 14, y)
        picture.text(left + width + 8, lowest, name, fill=colour)


def _round_up(value: float) -> float:
    """To 1, 1.5, 2, 2.5, 3, 4, 5, 6 or 8 times a power of ten; 1 for 0."""
    power = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(step * power for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= value * (1 - 1e-9))


def number(value: float) -> str:
    """For axes and labels: whole from 100 up, else three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
