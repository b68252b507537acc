"""What a model file holds and what running it takes, read from headers alone."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.errors import ModelError
from pellucid.executors.base import BLOCK_SIZE
from pellucid.executors.cpu import CpuExecutor
from pellucid.formats.checkpoint import open_checkpoint
from pellucid.graph.ir import Graph
from pellucid.graph.passes.fuse import fuse
from pellucid.models.config import ModelConfig
from pellucid.models.registry import build_model

MAX_SHOWN = 80
"""Characters of one metadata value, and the longest array shown in full has MAX_ITEMS items."""
MAX_ITEMS = 8


@dataclass(frozen=True)
class TensorInfo:
    name: str
    type: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class TypeTotal:
    """All tensors of one storage type."""

    type: str
    num_tensors: int
    num_weights: int
    nbytes: int


@dataclass(frozen=True)
class Inspection:
    """The answer of `inspect_model`.

    `problem` says why Pellucid cannot run the model; `config`, `graph` and what begins with `kv_` are None then.
    `weight_nbytes` counts a tied head once. `kv_token_nbytes` is the KV cache's share of one token, in the type that is
    chosen by itself.
    """

    path: Path
    format: str
    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]
    types: tuple[TypeTotal, ...]
    weight_nbytes: int
    config: ModelConfig | None
    graph: Graph | None
    kv_cache_dtype: str | None
    kv_token_nbytes: int | None
    problem: str | None


def inspect_model(path: Path, *, fused: bool = False) -> Inspection:
    """Read the headers of the model at `path`; `fused` runs the fuse pass over its graph.

    A sound file that Pellucid cannot run is described all the same, with the reason. Raises ModelError for a file that
    is not sound.
    """
    with open_checkpoint(path) as checkpoint:
        tensors = tuple(TensorInfo(t.name, t.type.name, t.shape, t.nbytes) for t in checkpoint.tensors.values())
        config: ModelConfig | None = None
        graph: Graph | None = None
        kv_cache_dtype: str | None = None
        kv_token_nbytes: int | None = None
        problem: str | None = None
        try:
            config, graph = build_model(checkpoint)
            graph = fuse(graph) if fused else graph
            executor = CpuExecutor()
            kv_cache_dtype = executor.kv_cache_dtype(graph)
            kv_token_nbytes = sum(executor.kv_block_nbytes(graph)) // BLOCK_SIZE
        except ModelError as error:
            problem = str(error)
        return Inspection(
            path=path,
            format=checkpoint.format,
            metadata=dict(checkpoint.metadata),
            tensors=tensors,
            types=_type_totals(tensors),
            weight_nbytes=sum(t.nbytes for t in tensors),
            config=config,
            graph=graph,
            kv_cache_dtype=kv_cache_dtype,
            kv_token_nbytes=kv_token_nbytes,
            problem=problem,
        )


def abbreviate(value: object, *, length: int | None = None) -> str:
    """A metadata value as short text: long arrays as their length and first items, long strings cut.

    `length` is the whole length of an array of which `value` is the beginning.
    """
    if isinstance(value, np.ndarray):
        return abbreviate(value[: MAX_ITEMS + 1].tolist(), length=len(value))
    if isinstance(value, list | tuple):
        length = len(value) if length is None else length
        items = ", ".join(abbreviate(item) for item in value[:MAX_ITEMS])
        more = f", … {length:,} in all" if length > MAX_ITEMS else ""
        return f"[{items}{more}]"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}… {len(text):,} characters in all"


def _type_totals(tensors: tuple[TensorInfo, ...]) -> tuple[TypeTotal, ...]:
    """Per storage type, the one with the most bytes first."""
    counts, weights, nbytes = Counter[str](), Counter[str](), Counter[str]()
    for tensor in tensors:
        size = math.prod(tensor.shape)
        counts[tensor.type] += 1
        weights[tensor.type] += size
        nbytes[tensor.type] += tensor.nbytes
    return tuple(TypeTotal(name, counts[name], weights[name], total) for name, total in nbytes.most_common())
