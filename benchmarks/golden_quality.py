"""How far Pellucid and llama.cpp lie from transformers in float32 on the goldens of tests/test_real_models.py.

The goldens hold the 256 likeliest tokens of each of 384 positions, so the divergences are lower bounds (about 5 % low).
"""

from __future__ import annotations

import json
import math
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from bench_models import ROOT, BenchModel
from llama_server import llama_server
from support.divergence import top_agreement, top_kl
from support.steps import chunked

from pellucid.executors import get_executor
from pellucid.executors.base import BLOCK_SIZE
from pellucid.formats.checkpoint import open_checkpoint
from pellucid.graph.passes.fuse import fuse
from pellucid.models.registry import build_model

GOLDENS = ROOT / "tests" / "goldens" / "real"
CHUNK = 64  # tokens a step
LISTED = 1024  # tokens that llama-server is asked for


def has_golden(name: str) -> bool:
    return name in ("smollm2", "gemma3")


def golden_of(name: str) -> dict[str, npt.NDArray[Any]]:
    with np.load(GOLDENS / f"{name}.npz") as arrays:
        return dict(arrays)


def quality(model: BenchModel, activations: str) -> dict[str, Any]:
    """Mean KL divergence from float32 in nats, and the share of positions with the same likeliest token."""
    golden = golden_of(model.name)
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


def peer_quality(server: Path, model: BenchModel, threads: int) -> dict[str, Any]:
    """The same of llama.cpp, asked for the next token after each prefix: its likeliest ones and their logprobs.

    A token of the golden that is not among them counts with the rest.
    """
    golden = golden_of(model.name)
    ids = golden["token_ids"].tolist()
    with llama_server(server, model.peer_path, 1, threads, len(ids) + 1) as url:
        listed = [_listed(url, ids[: end + 1]) for end in range(len(ids))]
    kl = [_listed_kl(golden, row, found) for row, found in enumerate(listed)]
    same = [max(found, key=found.__getitem__) == best for found, best in zip(listed, golden["argmax"], strict=True)]
    return {"mean_kl": float(np.mean(kl)), "same_top": float(np.mean(same)), "positions": len(kl)}


def _listed(url: str, prompt: list[int]) -> dict[int, float]:
    """Log-probabilities of the likeliest next tokens, by their number."""
    body = {"prompt": prompt, "n_predict": 1, "n_probs": LISTED, "temperature": 0, "cache_prompt": True}
    request = urllib.request.Request(
        f"{url}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        [found] = json.load(answer)["completion_probabilities"]
    return {one["id"]: one["logprob"] for one in found["top_logprobs"]}


def _listed_kl(golden: Mapping[str, npt.NDArray[Any]], row: int, found: Mapping[int, float]) -> float:
    """KL(golden ‖ found) of one row, over the golden's tokens that are listed and one bucket for all the others."""
    pairs = [(p, found.get(int(t))) for t, p in zip(golden["top_ids"][row], golden["top_logprobs"][row], strict=True)]
    known = [(float(p), q) for p, q in pairs if q is not None]
    total = sum(math.exp(p) * (p - q) for p, q in known)
    rest = [max(1 - sum(math.exp(one[side]) for one in known), 1e-12) for side in (0, 1)]
    return total + rest[0] * math.log(rest[0] / rest[1])
