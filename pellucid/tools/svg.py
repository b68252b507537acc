"""A little SVG: rectangles, lines and text, for plots and the docs' pictures. The same input gives the same bytes."""

from __future__ import annotations

from collections.abc import Iterable
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
