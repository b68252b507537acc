"""No form takes a compiling thread, the memory or the loop: each compiles within limits, or is refused in time."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pellucid.structured.limits import COMPILE_SECONDS

SCRIPT = Path(__file__).with_name("hostile_grammars.py")
REFUSED = {
    "json: 10,000 deep", "json: 300 deep", "json: refers to itself", "json: contains itself",
    "json: 10,000 in an enum", "json: 2,000 properties", "json: all of patterns", "json: multiples of much",
    "regex: a million", "regex: counts of counts", "regex: deep", "gbnf: deep", "gbnf: 3,000 rules", "grammar: deep",
    "grammar: doubling", "grammar: a chain of terminals",
}  # fmt: skip
"""What is refused before llguidance sees it. Others may be refused by its limits."""


@pytest.fixture(scope="module")
def costs(smollm2_path: Path) -> list[dict[str, Any]]:
    """A process of its own, with SmolLM2's vocabulary: a form that hangs fails here, and takes nothing with it."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(smollm2_path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_each_is_compiled_or_refused_in_time_and_memory(costs: list[dict[str, Any]]) -> None:
    assert len(costs) > 60
    slow = [cost for cost in costs if cost["seconds"] > 2 * COMPILE_SECONDS or cost["mask_seconds"] > 0.2]
    large = [cost for cost in costs if cost["mib"] > 300]
    assert slow == large == []


def test_what_is_too_much_is_refused_at_the_door(costs: list[dict[str, Any]]) -> None:
    outcomes = {cost["name"]: cost["outcome"] for cost in costs}
    assert {name for name in REFUSED if not outcomes[name].startswith("refused")} == set()
    assert not [name for name, outcome in outcomes.items() if "gave up" in outcome]  # a panic in Rust
