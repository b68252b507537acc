"""Plots as SVG, without a library: bars of ratios, bars of shares, and panels of lines."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from pellucid.tools.svg import INK, SOFT, Svg, line_panel

COLOURS = {True: "#2f7d5b", False: "#b5533c"}  # faster than the peer, or slower
PALE = {True: "#9cc3b0", False: "#dcaa9d"}
LEFT, WIDTH, LINE, BAR = 300, 400, 20, 14

Line = tuple[str, str, list[tuple[float, float]]]  # name, colour, points
Panel = tuple[str, Sequence[int], list[Line]]  # label, numbers of its axis, lines


def ratio_bars(title: str, groups: Sequence[tuple[str, Sequence[tuple[str, float]]]], pale: Container[str] = ()) -> str:
    """A bar for each (label, ratio) of each group, those with a label of `pale` less loud; a line marks one."""
    largest = max((ratio for _, bars in groups for _, ratio in bars), default=1.0)
    scale = WIDTH / max(largest, 1.0)
    height = 40 + sum(LINE + 6 + LINE * len(bars) for _, bars in groups)
    picture, y = Svg(LEFT + WIDTH + 70, height + 12, title), 34
    picture.text(8, 20, title, bold=True)
    picture.line([(LEFT + scale, y), (LEFT + scale, height)], INK, 1, dash="3 3")
    for name, bars in groups:
        y += LINE + 6
        picture.text(8, y - 7, name, bold=True)
        for label, ratio in bars:
            soft = label in pale
            picture.text(LEFT - 8, y + 11, label, anchor="end", fill=SOFT if soft else INK)
            picture.rect(LEFT, y, ratio * scale, BAR, (PALE if soft else COLOURS)[ratio >= 1])
            picture.text(LEFT + ratio * scale + 6, y + 11, f"{ratio:.2f}×")
            y += LINE
    return picture.render()


def share_bars(
    title: str,
    parts: Mapping[str, tuple[str, str]],
    groups: Sequence[tuple[str, Sequence[tuple[str, Mapping[str, float], str]]]],
) -> str:
    """A whole bar for each (label, share of each part, note) of each group; `parts` have a label and a colour."""
    height = 66 + sum(LINE + 6 + LINE * len(bars) for _, bars in groups)
    picture, x, y = Svg(LEFT + WIDTH + 170, height, title), 8, 60
    picture.text(8, 20, title, bold=True)
    for label, colour in parts.values():
        picture.rect(x, 34, 12, 12, colour)
        picture.text(x + 16, 44, label)
        x += 34 + round(5.8 * len(label))
    for name, bars in groups:
        y += LINE + 6
        picture.text(8, y - 7, name, bold=True)
        for label, shares, note in bars:
            picture.text(LEFT - 8, y + 11, label, anchor="end")
            at = float(LEFT)
            for part, (_, colour) in parts.items():
                picture.rect(at, y, shares[part] * WIDTH, BAR, colour)
                at += shares[part] * WIDTH
            picture.text(LEFT + WIDTH + 6, y + 11, note)
            y += LINE
    return picture.render()


def panels(title: str, rows: Sequence[Sequence[Panel]]) -> str:
    """Panels in rows. Points of lines have numbers of the axis as x, which gives all of them the same room."""
    left, width, height, gap = 60, 300, 130, 120
    picture = Svg(left + max(map(len, rows)) * (width + gap), 40 + len(rows) * (height + 62), title)
    picture.text(8, 20, title, bold=True)
    for down, row in enumerate(rows):
        for across, (label, numbers, lines) in enumerate(row):
            place = {number: i / (len(numbers) - 1) for i, number in enumerate(numbers)}
            line_panel(
                picture,
                (left + across * (width + gap), 34 + down * (height + 62), width, height),
                label,
                [(place[number], f"{number:,}") for number in numbers],
                [(name, colour, [(place[int(x)], y) for x, y in points]) for name, colour, points in lines],
            )
    return picture.render()
