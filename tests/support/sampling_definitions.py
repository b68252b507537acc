"""What every sampler does, in plain NumPy float64: sort everything, cut, renormalise. The tests' specification.

All functions take logits [V] (float64, -inf: not there any more) and return them with more of them at -inf. Among
equals the smaller ids come first.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pellucid.sampling import SamplingParams
from pellucid.sampling_fields import MIN_TEMPERATURE

Array = npt.NDArray[np.float64]


def softmax(x: Array) -> Array:
    w = np.exp(x - x.max())
    return w / w.sum()


def only(x: Array, ids: npt.NDArray[np.intp]) -> Array:
    result = np.full_like(x, -np.inf)
    result[ids] = x[ids]
    return result


def descending(x: Array) -> npt.NDArray[np.intp]:
    return np.argsort(-x, kind="stable")


def reaching(order: npt.NDArray[np.intp], p: Array, mass: float) -> npt.NDArray[np.intp]:
    """The first of `order` until their probability reaches `mass`."""
    reached = np.flatnonzero(np.cumsum(p[order]) >= mass * (1 - 1e-12))
    return order[: reached[0] + 1] if len(reached) else order


def top_k(x: Array, k: int) -> Array:
    return only(x, descending(x)[:k])


def top_p(x: Array, p: float) -> Array:
    """Holtzman et al. 2019, "The Curious Case of Neural Text Degeneration"."""
    return only(x, reaching(descending(x), softmax(x), p))


def min_p(x: Array, p: float) -> Array:
    """Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling"."""
    q = softmax(x)
    return only(x, np.flatnonzero(q >= p * q.max()))


def typical_p(x: Array, mass: float) -> Array:
    """Meister et al. 2023, "Locally Typical Sampling"."""
    p = softmax(x)
    there = p > 0
    surprise = np.full_like(x, np.inf)
    surprise[there] = -np.log(p[there])
    entropy = float((p[there] * surprise[there]).sum())
    return only(x, reaching(np.argsort(np.abs(surprise - entropy), kind="stable"), p, mass))


def top_n_sigma(x: Array, n: float) -> Array:
    """Tang et al. 2024, "Top-nσ: Not All Logits Are You Need"."""
    return only(x, np.flatnonzero(x >= x.max() - n * x[np.isfinite(x)].std()))


def xtc(x: Array, threshold: float) -> Array:
    """p-e-w 2024, "Exclude Top Choices" (text-generation-webui, pull request 6335), when its turn has come."""
    order = descending(x)
    likely = order[softmax(x)[order] >= threshold]
    return only(x, np.setdiff1d(np.flatnonzero(np.isfinite(x)), likely[:-1]))


def dynamic_temperature(x: Array, p: SamplingParams) -> float:
    """kalomaze 2023, entropy-based dynamic temperature, as in llama.cpp."""
    q = softmax(x)
    q = q[np.isfinite(x)]
    entropy = -float((q[q > 0] * np.log(q[q > 0])).sum())
    share = entropy / np.log(len(q)) if len(q) > 1 else 0.0
    return max(MIN_TEMPERATURE, p.temperature - p.dynatemp_range + 2 * p.dynatemp_range * share**p.dynatemp_exponent)


def mirostat1(x: Array, mu: float) -> Array:
    """Basu et al. 2021, "Mirostat", algorithm 1, with Zipf's exponent from the 100 most likely tokens."""
    p = np.sort(softmax(x))[::-1]
    p = p[p > 0][:100]
    if len(p) < 2:
        return top_k(x, 1)
    i = np.arange(1, len(p))
    t, b = np.log((i + 1) / i), np.log(p[:-1] / p[1:])
    s = (t * b).sum() / (t * t).sum()
    with np.errstate(divide="ignore"):
        k = (((s - 1) * 2**mu) / (1 - len(x) ** (1 - s))) ** (1 / s)
    return top_k(x, max(1, int(min(k, len(x)))))


def mirostat2(x: Array, mu: float) -> Array:
    """Basu et al. 2021, algorithm 2: no token of a surprise above mu, but the most likely one stays."""
    with np.errstate(divide="ignore"):
        kept = np.flatnonzero(-np.log2(softmax(x)) <= mu)
    return only(x, kept) if len(kept) else top_k(x, 1)


def penalised(x: Array, p: SamplingParams, prompt: list[int], answer: list[int]) -> Array:
    """CTRL (Keskar et al. 2019) over prompt and answer; OpenAI's frequency and presence penalties over the answer."""
    tokens = [*((t, False) for t in prompt), *((t, True) for t in answer)]
    if p.repeat_last_n > 0:
        tokens = tokens[-p.repeat_last_n :]
    x = x.copy()
    for token in {t for t, _ in tokens}:
        count = sum(own and t == token for t, own in tokens)
        x[token] = x[token] / p.repetition_penalty if x[token] > 0 else x[token] * p.repetition_penalty
        x[token] -= p.frequency_penalty * count + p.presence_penalty * (count > 0)
    return x


def dry(x: Array, p: SamplingParams, tokens: list[int], breakers: set[int]) -> Array:
    """p-e-w 2024, "DRY" (text-generation-webui, pull request 5677), for breakers of one token each."""
    longest: dict[int, int] = {}
    for at in range(1, len(tokens)):
        length = 0
        while length < at and tokens[at - 1 - length] == tokens[-1 - length] and tokens[-1 - length] not in breakers:
            length += 1
        if tokens[at] not in breakers and length >= p.dry_allowed_length:
            longest[tokens[at]] = max(longest.get(tokens[at], 0), length)
    x = x.copy()
    for token, length in longest.items():
        x[token] -= p.dry_multiplier * p.dry_base ** (length - p.dry_allowed_length)
    return x


def ngram_completions(tokens: list[int], size: int) -> set[int]:
    """Tokens that would complete `size` tokens that are there already (Paulus et al. 2017, as in transformers)."""
    end = tokens[len(tokens) - size + 1 :]
    return {tokens[i + size - 1] for i in range(len(tokens) - size + 1) if tokens[i : i + size - 1] == end[: size - 1]}


def distribution(
    logits: npt.NDArray[np.float32], p: SamplingParams, *, xtc_acts: bool = False, mu: float | None = None
) -> Array:
    """Probabilities [V] after the cuts of `p.samplers` and mirostat; without what looks back."""
    x = logits.astype(np.float64)
    for name in p.samplers:
        if name == "temperature" and p.temperature == 0:
            x = top_k(x, 1)
        elif name == "temperature":
            x = x / (dynamic_temperature(x, p) if p.dynatemp_range else p.temperature)
        elif name == "top_k" and p.top_k:
            x = top_k(x, p.top_k)
        elif name == "top_p" and p.top_p < 1:
            x = top_p(x, p.top_p)
        elif name == "min_p" and p.min_p:
            x = min_p(x, p.min_p)
        elif name == "typical_p" and p.typical_p < 1:
            x = typical_p(x, p.typical_p)
        elif name == "top_n_sigma" and p.top_n_sigma:
            x = top_n_sigma(x, p.top_n_sigma)
        elif name == "xtc" and xtc_acts:
            x = xtc(x, p.xtc_threshold)
    if p.mirostat:
        x = (mirostat1 if p.mirostat == 1 else mirostat2)(x, 2 * p.mirostat_tau if mu is None else mu)
    return softmax(x)
