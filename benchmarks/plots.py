"""Bars as SVG, without a library: ratios to the peer for each model and work."""

from __future__ import annotations

from html import escape

WIDTH, LABEL, LINE, BAR = 760, 250, 22, 14
COLOURS = {True: "#2f7d5b", False: "#b5533c"}  # faster than the peer, or slower


def ratio_bars(title: str, groups: list[tuple[str, list[tuple[str, float]]]]) -> str:
    """An SVG with a bar for each (label, ratio) of each group; a line marks a ratio of one."""
    largest = max((ratio for _, bars in groups for _, ratio in bars), default=1.0)
    scale = (WIDTH - LABEL - 70) / max(largest, 1.0)
    parts, y = [f'<text x="8" y="22" font-size="15" font-weight="bold">{escape(title)}</text>'], 34
    top = y
    for name, bars in groups:
        y += LINE + 4
        parts.append(f'<text x="8" y="{y - 6}" font-weight="bold">{escape(name)}</text>')
        for label, ratio in bars:
            parts.append(f'<text x="{LABEL - 8}" y="{y + BAR - 3}" text-anchor="end">{escape(label)}</text>')
            shape = f'x="{LABEL}" y="{y}" width="{ratio * scale:.1f}" height="{BAR}" fill="{COLOURS[ratio >= 1]}"'
            parts.append(f"<rect {shape}/>")
            parts.append(f'<text x="{LABEL + ratio * scale + 6:.1f}" y="{y + BAR - 3}">{ratio:.2f}×</text>')
            y += LINE
    one = LABEL + scale
    parts.append(f'<line x1="{one:.1f}" y1="{top}" x2="{one:.1f}" y2="{y}" stroke="#666" stroke-dasharray="3 3"/>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 12}" font-family="sans-serif"'
    return f'{head} font-size="12" fill="#222">\n<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(
        [*parts, "</svg>\n"]
    )
