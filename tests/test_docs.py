"""What the pages name exists: links between them, and files and functions of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    missing = [link for link in links if link and "://" not in link and not (page.parent / link).exists()]
    paths = re.findall(r"`((?:pellucid|tests|scripts|docs|benchmarks)/[\w./-]+)`", text)
    missing += [path for path in paths if "mymodel" not in path and not (ROOT / path).exists()]
    assert missing == []


def test_the_architecture_names_what_is_in_the_code() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "pellucid").rglob("*.py"))
    code += (ROOT / "pellucid" / "native" / "program.cpp").read_text(encoding="utf-8")
    for name in re.findall(r"`([A-Za-z_]+(?:(?:\.|::)[A-Za-z_]+)?)`", text):
        last = re.split(r"\.|::", name)[-1]
        assert re.search(rf"\b{last}\b", code), f"docs/architecture.md names {name}, which is not in the code"


def test_the_readme_begins_with_the_two_commands() -> None:
    commands = re.findall(r"^    (\S.*?)\s*(?:#.*)?$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert commands[:2] == ["make run", "make test"]
