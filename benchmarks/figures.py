"""Figures that a benchmark puts into a page, between two marks with its name."""

from __future__ import annotations

import re
from pathlib import Path


def put(page: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- name -->` and `<!-- end of name -->`. Raises ValueError without such marks."""
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    found, count = re.subn(
        f"{start}.*?{end}", lambda _: f"{start}{text}\n{end}", page.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"{page} has {count} places for figures named {name}")
    page.write_text(found, encoding="utf-8")
