"""How far a model lies from the float32 goldens: KL divergence in nats, and agreement of the top token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]


def log_normalizer(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """log Σ exp(logits) of each row: [T, V] → [T]. Row by row: a whole vocabulary in float64 would not fit a cache."""
    return np.array([row.max() + np.log(np.exp(row.astype(np.float64) - row.max()).sum()) for row in logits])


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """[T, V] → [T, V]"""
    return logits - log_normalizer(logits)[:, None]


def exact_kl(reference: npt.NDArray[np.float32], logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """KL(reference ‖ model) of each row [T], over the whole vocabulary; both are logits [T, V].

    Both sides are normalised here, in float64: a float32 log-softmax is off by some 1e-5, which would come out as a
    divergence of that size, larger than what a good kernel has.
    """
    pairs = zip(reference, log_normalizer(reference), logits, log_normalizer(logits), strict=True)
    return np.array([_row_kl(p.astype(np.float64) - p_z, q.astype(np.float64) - q_z) for p, p_z, q, q_z in pairs])


def _row_kl(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
    return float((np.exp(p) * (p - q)).sum())


def top_kl(golden: Mapping[str, npt.NDArray[Any]], logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """KL(golden ‖ model) of each row [T], with the golden's top tokens apart and all the others in one bucket.

    Merging outcomes can only lower a KL divergence, so this is a lower bound of `exact_kl`. The golden may have more
    rows than there are logits.
    """
    count = len(logits)
    top_ids, rest_logprob = golden["top_ids"][:count], golden["rest_logprob"][:count].astype(np.float64)
    top = golden["top_logprobs"][:count].astype(np.float64)  # [T, 256]
    ours = np.take_along_axis(logits, top_ids, axis=-1) - log_normalizer(logits)[:, None]
    rest = np.maximum(1 - np.exp(ours).sum(axis=-1), 1e-12)  # the difference can round to nothing
    return (np.exp(top) * (top - ours)).sum(axis=-1) + np.exp(rest_logprob) * (rest_logprob - np.log(rest))


def top_agreement(golden: Mapping[str, npt.NDArray[Any]], logits: npt.NDArray[np.float32]) -> float:
    """Share of the rows whose likeliest token is the golden's."""
    return float((logits.argmax(axis=-1) == golden["argmax"][: len(logits)]).mean())
