"""The names that `pellucid` promises, and what importing them costs."""

import subprocess
import sys
from pathlib import Path

import pytest

import pellucid

NAMES = {
    "LLM", "AsyncLLM", "SamplingParams", "EngineConfig", "RequestOutput", "CompletionOutput", "StreamChunk", "Logprob",
    "EmbeddingOutput", "ScoreOutput", "ClassificationOutput", "StructuredOutputs",
    "PellucidError", "errors", "__version__",
}  # fmt: skip


def test_the_names_are_these_and_each_is_there() -> None:
    assert set(pellucid.__all__) == NAMES == set(dir(pellucid))
    for name in NAMES:
        assert getattr(pellucid, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = pellucid.Nothing


def test_sampling_params_load_no_array_library() -> None:
    script = (
        "import sys, pellucid; pellucid.SamplingParams(); pellucid.EngineConfig(model='m'); "
        "print('numpy' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[1]
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root).stdout == "False\n"
