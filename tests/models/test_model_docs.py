"""docs/models.md is made from the code and is current; docs/add-a-model.md names what exists."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_model_page_is_current() -> None:
    spec = importlib.util.spec_from_file_location("make_model_docs", ROOT / "scripts" / "make_model_docs.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE.read_text(encoding="utf-8") == script.render(), "docs/models.md is out of date; run `make docs`"


def test_families_stay_short() -> None:
    shared = {"__init__.py", "config.py", "family.py", "reader.py", "registry.py", "rope.py"}
    files = [path for path in (ROOT / "pellucid" / "models").glob("*.py") if path.name not in shared]
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert max(lengths.values()) < 150, lengths


def test_the_guide_is_true_to_its_own_measure() -> None:
    guide = (ROOT / "docs" / "add-a-model.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:pellucid|scripts|tests)/[\w/.]+\.py)`", guide):
        assert (ROOT / path).is_file() or "mymodel" in path, path
    [stated] = re.findall(r"`pellucid/models/gpt2\.py`: (\d+) lines", guide)
    found = len((ROOT / "pellucid" / "models" / "gpt2.py").read_text(encoding="utf-8").splitlines())
    assert int(stated) == found
