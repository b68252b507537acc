"""SmolLM2 and Gemma 3 against transformers, the long way: `make parity`, four to seven minutes on two cores.

What tests/test_real_models.py bounds from below on 384 positions is measured here exactly: the KL divergence over the
whole vocabulary, on all of the prose and all of the code (Gemma 3's window of 512 tokens is passed), on every
instruction set of this machine. The logits of transformers are computed anew, so stale goldens are found as well.
Each test prints its figures: run with `-s` to read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from support.divergence import exact_kl, log_normalizer, top_kl
from support.float32_models import load_float32
from support.steps import chunked
from transformers import AutoTokenizer

from pellucid.executors import get_executor
from pellucid.executors.base import BLOCK_SIZE
from pellucid.executors.cpu import available_isas
from pellucid.formats.checkpoint import open_checkpoint
from pellucid.graph.passes.fuse import fuse
from pellucid.models.registry import build_model

GOLDENS = Path(__file__).resolve().parents[1] / "goldens" / "real"
TOP = 256  # as the goldens
PREFILL_CHUNK = 64


@dataclass(frozen=True)
class Reference:
    """A model, and what transformers says of each text: its ids, and float32 logits [T, V]."""

    name: str
    path: Path
    texts: dict[str, tuple[list[int], npt.NDArray[np.float32]]]


@pytest.fixture(scope="module", params=["smollm2", "gemma3"])
def reference(request: pytest.FixtureRequest) -> Reference:
    path: Path = request.getfixturevalue(f"{request.param}_path")
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = load_float32(path)
    golden = np.load(GOLDENS / f"{request.param}.npz")["token_ids"].tolist()
    ids = {
        name: tokenizer((GOLDENS / f"{name}.txt").read_text(encoding="utf-8")).input_ids for name in ("prose", "code")
    }
    with torch.no_grad():
        texts = {
            name: (tokens, model(torch.tensor([tokens])).logits[0].numpy())
            for name, tokens in {**ids, "golden": golden}.items()
        }
    return Reference(request.param, path, texts)


def test_the_committed_golden_is_what_transformers_says(reference: Reference) -> None:
    golden = np.load(GOLDENS / f"{reference.name}.npz")
    _, expected = reference.texts["golden"]
    logprobs = np.take_along_axis(expected, golden["top_ids"], axis=-1) - log_normalizer(expected)[:, None]
    assert np.abs(logprobs - golden["top_logprobs"]).max() < 1e-3
    assert (expected.argmax(-1) == golden["argmax"]).all()


@pytest.mark.parametrize("isa", available_isas())
def test_exact_divergence(reference: Reference, isa: str) -> None:
    length = max(len(tokens) for tokens, _ in reference.texts.values())
    with open_checkpoint(reference.path) as checkpoint:
        _, graph = build_model(checkpoint)
        program = get_executor("cpu", isa=isa).compile(fuse(graph), -(-length // BLOCK_SIZE))
    for name, (tokens, expected) in reference.texts.items():
        logits = chunked(program, tokens, PREFILL_CHUNK)
        exact, bound = exact_kl(expected, logits), top_kl(_bucketed(expected), logits)
        same = float((logits.argmax(-1) == expected.argmax(-1)).mean())
        print(
            f"\n{reference.name} {isa} {name}, {len(tokens)} tokens: mean KL {exact.mean():.3g} "
            f"(bound of the top {TOP}: {bound.mean():.3g}), largest {exact.max():.3g}, same top token {same:.2%}"
        )
        assert bound.mean() <= exact.mean() < 0.002
        assert same >= 0.98
    program.close()


def _bucketed(logits: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.generic]]:
    """The form of the goldens: the likeliest tokens of each row and the log of the rest of the mass."""
    top_ids = np.array([np.argpartition(-row, TOP)[:TOP] for row in logits])
    top = np.take_along_axis(logits, top_ids, axis=-1) - log_normalizer(logits)[:, None]
    return {"top_ids": top_ids, "top_logprobs": top, "rest_logprob": np.log1p(-np.exp(top).sum(-1))}
