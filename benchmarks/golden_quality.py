"""How far Pellucid lies from transformers in float32 on the goldens of tests/test_real_models.py.

The goldens hold the 256 likeliest tokens of each of 384 positions, so the divergences are lower bounds (about 5 % low).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from bench_models import ROOT, BenchModel
from support.divergence import top_agreement, top_kl
from support.steps import chunked

from pellucid.executors import get_executor
from pellucid.executors.base import BLOCK_SIZE
from pellucid.formats.checkpoint import open_checkpoint
from pellucid.graph.passes.fuse import fuse
from pellucid.models.registry import build_model

GOLDENS = ROOT / "tests" / "goldens" / "real"
CHUNK = 64  # tokens a step


def has_golden(name: str) -> bool:
    return name in ("smollm2", "gemma3")


def quality(model: BenchModel, activations: str) -> dict[str, Any]:
    """Mean KL divergence from float32 in nats, and the share of positions with the same likeliest token."""
    with np.load(GOLDENS / f"{model.name}.npz") as arrays:
        golden = dict(arrays)
    ids = golden["token_ids"].tolist()
    with open_checkpoint(model.path) as checkpoint:
        _, graph = build_model(checkpoint)
        program = get_executor("cpu", activations=activations).compile(fuse(graph), -(-len(ids) // BLOCK_SIZE))
    try:
        logits = chunked(program, ids, CHUNK)
    finally:
        program.close()
    kl = top_kl(golden, logits)
    return {"mean_kl": float(kl.mean()), "same_top": top_agreement(golden, logits), "positions": len(kl)}
