"""The simulation finds nothing wrong, repeats itself by its seed, and does find what is broken on purpose."""

from __future__ import annotations

from unittest.mock import patch

import pytest
from support.sabotage import SABOTAGE
from support.scenario import STEP_FAULTS
from support.simulation import SimulationFailed, simulate, simulate_all

NUM_SEEDS = 100
"""`make proof` takes 10,000."""


def test_whatever_happens_the_books_are_right_and_answers_are_cold_ones() -> None:
    counts = simulate_all(range(NUM_SEEDS))
    for fault in STEP_FAULTS:
        assert counts[fault] > 2, f"{fault} never struck"
    for event in ("stop", "length", "abort", "error", "refused at the door"):
        assert counts[event] > 20, f"hardly any {event}"
    for event in ("preemptions", "resumed from the cache", "copies", "drafts", "cached"):
        assert counts[event] > 100, f"hardly any {event}"


def test_a_seed_repeats_itself() -> None:
    assert simulate(3).trace == simulate(3).trace
    assert simulate(3).trace != simulate(4).trace


@pytest.mark.parametrize("what", SABOTAGE)
def test_what_is_broken_on_purpose_is_found(what: str) -> None:
    owner, name, wrong = SABOTAGE[what]
    with patch.object(owner, name, wrong), pytest.raises(SimulationFailed, match=r"(?s)seed \d+: .*--seed \d+"):
        simulate_all(range(40))
