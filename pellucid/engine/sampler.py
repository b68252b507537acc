"""The sampler: one row of logits in, one token out, with its log-probabilities when asked for.

Rows are handled one by one, so a result depends on its own row only, bit for bit. The vocabulary (up to 262,144
entries) is never sorted: `top_ids` finds a handful of candidates with a few linear passes.

Microseconds a row, medians over logits of SmolLM2 and Gemma 3 270M, one core of an AMD Zen 3:

                                                          V = 49,152   V = 262,144
    a sort of the row, before anything else                    1,290        16,400
    argpartition for top_k, one running sum over the row         650         4,830
    now:  greedy                                                  14            57
          top_k = 40                                              92           190
          top_k, top_p, min_p and a repetition penalty           156           268
          temperature only                                       150           650
          top_p = 0.95 only                                      231         1,840
          five log-probabilities                                 166           860
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid.engine.constraint import Constraint
from pellucid.engine.random import uniform
from pellucid.errors import ExecutorError
from pellucid.sampling import SamplingParams

Logits = npt.NDArray[np.float32]  # [V]
Ids = npt.NDArray[np.int64]


class RowSampler:
    """Chooses the tokens of one answer. Keeps what the penalties need to know about the tokens so far."""

    def __init__(
        self,
        params: SamplingParams,
        *,
        seed: int,
        index: int,
        end_token_ids: frozenset[int],
        prompt_token_ids: list[int],
        constraint: Constraint | None = None,
    ) -> None:
        """`end_token_ids` are those that min_tokens holds back. Every id must be below the width of the logits."""
        self.params = params
        self.seed = seed
        self.index = index
        self.constraint = constraint
        self._mask: npt.NDArray[np.uint32] | None = None  # the constraint's, for the token that comes next
        self._end_ids = np.array(sorted(end_token_ids), dtype=np.int64)
        bias = params.logit_bias or {}
        self._bias_ids = np.fromiter(bias.keys(), np.int64, len(bias))
        self._bias = np.fromiter(bias.values(), np.float32, len(bias))
        self._penalised = (
            params.repetition_penalty != 1 or params.presence_penalty != 0 or params.frequency_penalty != 0
        )
        self._seen = TokenCounts()
        if self._penalised:
            for token in prompt_token_ids:
                self._seen.add(token, 0)

    def prepare(self) -> None:
        """Compute the constraint's mask for the next token; may run beside the forward pass, in another thread.

        Whatever the constraint raises comes through. Without this call, sampling computes the mask itself.
        """
        if self.constraint is not None and self._mask is None:
            self._mask = self.constraint.mask()

    def sample(self, logits: Logits, *, num_output_tokens: int, position: int) -> int:
        """The token for `position`, after `num_output_tokens` others. Changes nothing; call `accept` with the token.

        Raises ExecutorError when the logits hold NaN or infinity, or no token is left.
        """
        require_finite(logits)
        logits = self._process(logits, num_output_tokens)
        if self.params.temperature == 0:
            token = int(logits.argmax())  # the first, so the smallest id of equals
            if not np.isfinite(logits[token]):
                raise ExecutorError("no token can be chosen: all of them are masked")
            return token
        ids, weights = self._candidates(logits)
        chosen = draw(weights, uniform(self.seed, self.index, position))
        return chosen if ids is None else int(ids[chosen])

    def accept(self, token: int) -> None:
        """Count a token of the answer. Raises what the constraint raises."""
        if self._penalised:
            self._seen.add(token, 1)
        if self.constraint is not None:
            self._mask = None
            self.constraint.accept(token)

    def _process(self, logits: Logits, num_output_tokens: int) -> Logits:
        """The constraint, logit_bias, penalties, the mask of min_tokens; a copy when anything changes."""
        masked = num_output_tokens < self.params.min_tokens and len(self._end_ids) > 0
        if not (len(self._bias_ids) or self._penalised or masked or self.constraint):
            return logits
        logits = logits.copy()
        self.prepare()
        if self._mask is not None:
            allowed = np.unpackbits(self._mask.view(np.uint8), bitorder="little", count=len(logits))
            logits[allowed == 0] = -np.inf
        logits[self._bias_ids] += self._bias
        if self._penalised:
            ids, counts = self._seen.arrays()
            x = logits[ids]
            x = np.where(
                x > 0, x / np.float32(self.params.repetition_penalty), x * np.float32(self.params.repetition_penalty)
            )
            x -= np.float32(self.params.frequency_penalty) * counts
            x -= np.float32(self.params.presence_penalty) * (counts > 0)
            logits[ids] = x
        if masked:
            logits[self._end_ids] = -np.inf
        return logits

    def _candidates(self, logits: Logits) -> tuple[Ids | None, npt.NDArray[np.float32]]:
        """The tokens that temperature, top_k, top_p and min_p leave, by ascending id, with unnormalised probabilities.

        Ids None stands for the whole vocabulary. The most likely token has weight 1 and always stays.
        """
        params = self.params
        largest = logits.max()
        if not np.isfinite(largest):
            raise ExecutorError("no token can be chosen: all of them are masked")

        def weigh(x: Logits) -> Logits:
            with np.errstate(over="ignore"):  # -inf is as good as any other weight of 0
                x = x - largest
                x /= np.float32(params.temperature)
            return np.exp(x, out=x)

        if 0 < params.top_k < len(logits):
            ids = top_ids(logits, params.top_k)
            weights = weigh(logits[ids])
            if params.top_p < 1:
                kept = nucleus(weights, params.top_p)
                ids, weights = ids[kept], weights[kept]
        elif params.top_p < 1:
            weights = weigh(logits)
            ids = nucleus(weights, params.top_p)
            weights = weights[ids]
        else:
            weights = weigh(logits)
            if params.min_p == 0:
                return None, weights
            ids = np.flatnonzero(weights >= np.float32(params.min_p))
            weights = weights[ids]
        if params.min_p > 0:
            likely = weights >= np.float32(params.min_p)
            ids, weights = ids[likely], weights[likely]
        order = np.argsort(ids)
        return ids[order], weights[order]


@dataclass(frozen=True)
class Row:
    """One row of logits that wants a token: the one for `position`, after `num_output_tokens` others of the answer.

    `num_logprobs` is how many of the most likely tokens to report beside the chosen one; None: no log-probabilities.
    """

    sampler: RowSampler
    logits: Logits
    num_output_tokens: int
    position: int
    num_logprobs: int | None = None


@dataclass(frozen=True)
class Sampled:
    """A token, and with `num_logprobs` the log-probabilities that `ranked_logprobs` gives for it."""

    token: int
    logprobs: list[RankedToken] | None = None


def sample_rows(rows: Sequence[Row]) -> list[Sampled | Exception]:
    """A token for each row, or the exception that this row alone ends with. Changes no sampler; call `accept`."""
    results: list[Sampled | Exception] = []
    for row in rows:
        try:
            token = row.sampler.sample(row.logits, num_output_tokens=row.num_output_tokens, position=row.position)
            ranked = None if row.num_logprobs is None else ranked_logprobs(row.logits, token, row.num_logprobs)
            results.append(Sampled(token, ranked))
        except Exception as error:  # one request cannot hurt another
            results.append(error)
    return results


class TokenCounts:
    """How often each token of a sequence was generated (0: it is in the prompt only), as arrays that grow by one."""

    def __init__(self) -> None:
        self._slots: dict[int, int] = {}
        self._ids = np.zeros(64, np.int64)
        self._counts = np.zeros(64, np.float32)

    def add(self, token: int, count: int) -> None:
        slot = self._slots.setdefault(token, len(self._slots))
        if slot == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._ids[slot] = token
        self._counts[slot] += count

    def arrays(self) -> tuple[Ids, npt.NDArray[np.float32]]:
        """Distinct ids and their counts."""
        return self._ids[: len(self._slots)], self._counts[: len(self._slots)]


@dataclass(frozen=True)
class RankedToken:
    """A token with its log-probability, and how many tokens are at least as likely (1: the most likely)."""

    token_id: int
    logprob: float
    rank: int


def ranked_logprobs(logits: Logits, token: int, count: int) -> list[RankedToken]:
    """`token` first, then the `count` most likely tokens (without `token`, if it is one of them), most likely first.

    log p(i) = x(i) - log Σ exp(x), of the logits as they come from the model. Equal logits rank by ascending id.
    """
    require_finite(logits)
    largest = logits.max()
    log_sum = float(largest) + float(np.log(np.exp(logits - largest).sum(dtype=np.float64)))
    x = logits[token]
    rank = 1 + int(np.count_nonzero(logits > x)) + int(np.count_nonzero(logits[:token] == x))
    ranked = [RankedToken(token, float(x) - log_sum, rank)]
    if count > 0:
        best = enumerate(top_ids(logits, count).tolist(), start=1)
        ranked += [RankedToken(i, float(logits[i]) - log_sum, r) for r, i in best if i != token]
    return ranked


def require_finite(logits: Logits) -> None:
    """Raise ExecutorError when a logit is NaN or infinite."""
    if not np.isfinite(logits).all():
        bad = int(np.count_nonzero(~np.isfinite(logits)))
        raise ExecutorError(
            f"{bad} of {len(logits)} logits are NaN or infinite: the model's weights or activations overflow"
        )


def top_ids(x: Logits, count: int) -> Ids:
    """Ids of the `count` largest values, largest first, equals by ascending id: exactly the head of a stable sort.

    The count-th largest of the maxima of disjoint groups is a lower bound of the count-th largest value, so one pass
    for the maxima and one comparison leave few values to sort.
    """
    if count < len(x):
        width = len(x) // 64
        if count <= width:
            maxima = x[: 64 * width].reshape(64, width).max(axis=0)
            bound = np.partition(maxima, width - count)[width - count]
        else:
            bound = np.partition(x, len(x) - count)[len(x) - count]
        found = np.flatnonzero(x >= bound)
    else:
        found = np.arange(len(x))
    return found[np.argsort(-x[found], kind="stable")[:count]]


def nucleus(weights: Logits, top_p: float) -> Ids:
    """Indices of the fewest of the largest `weights` that reach top_p of their sum, equals by ascending index.

    Nearly always they are among the 256 largest. If not, a histogram of the weights' logarithms (64 bins to a factor
    of e) tells which bin holds the last one, and only that bin is sorted.
    """
    target = top_p * float(weights.sum(dtype=np.float64))
    best = top_ids(weights, 256)
    reached = weights[best].cumsum(dtype=np.float64) >= target
    if reached.any():
        return best[: int(reached.argmax()) + 1]
    with np.errstate(divide="ignore"):
        bins = np.minimum(np.log(weights) * np.float32(-64), np.float32(8191)).astype(np.int64)  # weights are at most 1
    below = np.bincount(bins, weights).cumsum()
    last = int(below.searchsorted(target))
    if last >= len(below):  # rounding: not even all of them reach the target
        return np.arange(len(weights))
    members = np.flatnonzero(bins == last)
    members = members[np.argsort(-weights[members], kind="stable")]
    before = float(below[last - 1]) if last else 0.0
    size = 1 + int((before + weights[members].cumsum(dtype=np.float64)).searchsorted(target))
    return np.concatenate([np.flatnonzero(bins < last), members[:size]])


def draw(weights: npt.NDArray[np.float32], u: float) -> int:
    """The index i at which the running sum of `weights` first exceeds u · their sum (inverse CDF), u in [0, 1).

    Sums in float64, first over blocks of 256, then inside one block: a running sum over 262,144 values takes 4 ms.
    """
    sums = np.add.reduceat(weights, np.arange(0, len(weights), 256), dtype=np.float64).cumsum()
    target = u * float(sums[-1])
    block = int(sums.searchsorted(target, side="right"))
    inside = weights[256 * block : 256 * block + 256]
    before = float(sums[block - 1]) if block else 0.0
    chosen = int((before + inside.cumsum(dtype=np.float64)).searchsorted(target, side="right"))
    if chosen == len(inside):  # the two sums round differently: the last token that has any weight
        chosen = int(np.flatnonzero(inside)[-1])
    return 256 * block + chosen
