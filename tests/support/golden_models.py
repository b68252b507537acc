"""The tiny checkpoints of scripts/make_model_goldens.py, and ways to run them."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from support.steps import full_forward

from pellucid.executors import get_executor
from pellucid.executors.base import BLOCK_SIZE, Program
from pellucid.formats.checkpoint import Checkpoint, open_checkpoint
from pellucid.formats.qtensor import QTensor
from pellucid.graph.ir import Graph
from pellucid.models.registry import build_model

GOLDENS = Path(__file__).resolve().parents[1] / "goldens" / "models"
CASES = sorted(path.name for path in GOLDENS.iterdir() if path.is_dir())
RUNS = [(case, path.stem) for case in CASES for path in sorted((GOLDENS / case).glob("*.npz"))]
EXECUTORS = ["reference", "cpu"]


@dataclass(frozen=True)
class Golden:
    """Float32 `logits` [P, V] that transformers gives for `tokens` at `positions` [P]."""

    tokens: list[int]
    positions: np.ndarray
    logits: np.ndarray
    max_model_len: int | None

    def error(self, logits: np.ndarray) -> float:
        """Greatest absolute difference to `logits` [T, V] over the range of the golden logits."""
        return float(np.abs(logits[self.positions] - self.logits).max() / np.ptp(self.logits))


def load_golden(case: str, run: str) -> Golden:
    with np.load(GOLDENS / case / f"{run}.npz") as file:
        return Golden(file["tokens"].tolist(), file["positions"], file["logits"], int(file["max_model_len"]) or None)


def load_config(case: str) -> dict[str, Any]:
    return json.loads((GOLDENS / case / "config.json").read_text())


def altered(
    case: str,
    changes: Mapping[str, object] = {},
    tensors: Mapping[str, QTensor | None] = {},
    drop: tuple[str, ...] = (),
) -> Checkpoint:
    """The checkpoint of `case` with some settings and tensors changed, added, or (`drop`; tensors: None) taken away."""
    original = open_checkpoint(GOLDENS / case)
    config = copy.deepcopy(original.metadata) | dict(changes)
    for key in drop:
        del config[key]
    kept = {name: tensor for name, tensor in (dict(original.tensors) | dict(tensors)).items() if tensor is not None}
    return Checkpoint(original.path, "safetensors", config, kept)


def build_case(case: str, max_model_len: int | None = None) -> Graph:
    with open_checkpoint(GOLDENS / case) as ckpt:
        return build_model(ckpt, max_model_len=max_model_len)[1]


def compile_for(graph: Graph, executor: str, num_tokens: int) -> Program:
    """A program with room for `num_tokens`, and some more so that blocks do not lie in order.

    The CPU executor gets a float32 cache, as the goldens had, and one thread, which is fastest for models of this size.
    """
    made = get_executor("cpu", threads=1, kv_cache_dtype="float32") if executor == "cpu" else get_executor(executor)
    return made.compile(graph, 2 * -(-num_tokens // BLOCK_SIZE) + 8)


def all_logits(graph: Graph, executor: str, tokens: list[int]) -> np.ndarray:
    program = compile_for(graph, executor, len(tokens))
    try:
        return full_forward(program, tokens)
    finally:
        program.close()
