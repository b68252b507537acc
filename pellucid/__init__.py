"""Pellucid: an engine for large language models whose inside can be seen.

>>> from pellucid import LLM, SamplingParams
>>> with LLM("smollm2") as llm:
...     [result] = llm.generate("Once upon a time", SamplingParams(max_tokens=32))
...     print(result.text)

Every name is imported when it is first used, so `import pellucid` loads nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pellucid.config import EngineConfig as EngineConfig
    from pellucid.engine.async_engine import AsyncLLM as AsyncLLM
    from pellucid.engine.classify import ClassificationOutput as ClassificationOutput
    from pellucid.engine.llm import LLM as LLM
    from pellucid.engine.outputs import CompletionOutput as CompletionOutput
    from pellucid.engine.outputs import Logprob as Logprob
    from pellucid.engine.outputs import RequestOutput as RequestOutput
    from pellucid.engine.outputs import StreamChunk as StreamChunk
    from pellucid.engine.pooling import EmbeddingOutput as EmbeddingOutput
    from pellucid.engine.pooling import ScoreOutput as ScoreOutput
    from pellucid.errors import PellucidError as PellucidError
    from pellucid.sampling import SamplingParams as SamplingParams
    from pellucid.structured_outputs import StructuredOutputs as StructuredOutputs

__version__ = "0.1.0"

_HOMES = {
    "LLM": "pellucid.engine.llm",
    "AsyncLLM": "pellucid.engine.async_engine",
    "SamplingParams": "pellucid.sampling",
    "StructuredOutputs": "pellucid.structured_outputs",
    "EngineConfig": "pellucid.config",
    "RequestOutput": "pellucid.engine.outputs",
    "CompletionOutput": "pellucid.engine.outputs",
    "StreamChunk": "pellucid.engine.outputs",
    "Logprob": "pellucid.engine.outputs",
    "EmbeddingOutput": "pellucid.engine.pooling",
    "ScoreOutput": "pellucid.engine.pooling",
    "ClassificationOutput": "pellucid.engine.classify",
    "PellucidError": "pellucid.errors",
}
_MODULES = ("errors",)

__all__ = [
    "LLM",
    "AsyncLLM",
    "ClassificationOutput",
    "CompletionOutput",
    "EmbeddingOutput",
    "EngineConfig",
    "Logprob",
    "PellucidError",
    "RequestOutput",
    "SamplingParams",
    "ScoreOutput",
    "StreamChunk",
    "StructuredOutputs",
    "__version__",
    "errors",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        value: object = getattr(import_module(_HOMES[name]), name)
    elif name in _MODULES:
        value = import_module(f"pellucid.{name}")
    else:
        raise AttributeError(f"module 'pellucid' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
