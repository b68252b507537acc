"""How far a model lies from the float32 goldens: KL divergence in nats, and agreement of the top token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """[T, V] → [T, V], in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def exact_kl(reference: Array, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """KL(reference ‖ model) of each row [T], over the whole vocabulary. `reference` [T, V] are log-probabilities."""
    return (np.exp(reference) * (reference - log_softmax(logits))).sum(axis=-1)


def top_kl(golden: Mapping[str, npt.NDArray[Any]], logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """KL(golden ‖ model) of each row [T], with the golden's top tokens apart and all the others in one bucket.

    Merging outcomes can only lower a KL divergence, so this is a lower bound of `exact_kl`.
    """
    ours = np.take_along_axis(log_softmax(logits), golden["top_ids"], axis=-1)  # [T, 256]
    rest = np.maximum(1 - np.exp(ours).sum(axis=-1), 1e-12)  # the difference can round to nothing
    golden_rest = np.exp(golden["rest_logprob"].astype(np.float64))
    top = golden["top_logprobs"].astype(np.float64)
    return (np.exp(top) * (top - ours)).sum(axis=-1) + golden_rest * (golden["rest_logprob"] - np.log(rest))


def top_agreement(golden: Mapping[str, npt.NDArray[Any]], logits: npt.NDArray[np.float32]) -> float:
    """Share of the rows whose likeliest token is the golden's."""
    return float((logits.argmax(axis=-1) == golden["argmax"]).mean())
