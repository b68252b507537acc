"""Readout: what a request that generates nothing takes from the rows of its prompt.

Such a request is scheduled like any other, in the same batches, and ends when its prompt has been computed. A readout
names the positions whose rows it wants and is handed them in order, in pieces as the prompt was cut into chunks. Rows
that it has are not wanted again after a preemption. Each row is used on its own and in the order of the positions, so
that no bit of a result depends on the pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from pellucid.errors import ExecutorError

Rows = npt.NDArray[np.float32]
Pooling = Literal["mean", "last", "cls"]


class Readout(Protocol):
    reads: Literal["hidden", "logits"]
    """Last hidden states [., E], or logits [., V]."""

    @property
    def wanted(self) -> range:
        """Positions whose rows are still to come; empty when it has them all."""
        ...

    def take(self, rows: Rows) -> None:
        """Use the rows of the next len(rows) wanted positions. What it raises ends the request."""
        ...


class Pooler:
    """One vector for a text: the mean of its hidden states, the last one, or the first ("cls")."""

    reads: Literal["hidden", "logits"] = "hidden"

    def __init__(self, pooling: Pooling, num_tokens: int) -> None:
        positions = {"mean": (0, num_tokens), "last": (num_tokens - 1, num_tokens), "cls": (0, 1)}
        self.wanted = range(*positions[pooling])
        self._count = len(self.wanted)
        self._sum: npt.NDArray[np.float64] | None = None

    def take(self, rows: Rows) -> None:
        if not np.isfinite(rows).all():
            raise ExecutorError("hidden states are not finite; the model file may be damaged")
        for row in rows:  # one by one: a sum over the whole array would depend on how the text was cut into chunks
            self._sum = row.astype(np.float64) if self._sum is None else self._sum + row
        self.wanted = self.wanted[len(rows) :]

    @property
    def vector(self) -> npt.NDArray[np.float64]:
        """[E], when nothing is wanted any more."""
        assert self._sum is not None, "no row of the text has been read"
        return self._sum / self._count


class TokenLogprobs:
    """Log-probabilities of given tokens: `targets[i]` are those that may follow position `first + i`."""

    reads: Literal["hidden", "logits"] = "logits"

    def __init__(self, first: int, targets: Sequence[Sequence[int]]) -> None:
        self.wanted = range(first, first + len(targets))
        self._targets = targets
        self.logprobs: list[list[float]] = []
        """For each position the log-probabilities of its targets, in nats."""

    def take(self, rows: Rows) -> None:
        for row in rows:
            self.logprobs.append(_logprobs_of(row, self._targets[len(self.logprobs)]))
        self.wanted = self.wanted[len(rows) :]


def _logprobs_of(row: Rows, tokens: Sequence[int]) -> list[float]:
    """log softmax(row) at `tokens`, summed in float64; -inf for a logit of -inf."""
    top = float(row.max())
    if not np.isfinite(top):  # NaN spreads to the maximum
        raise ExecutorError("the logits are not finite; the model file may be damaged")
    total = np.log(np.exp(row.astype(np.float64) - top).sum())
    return [float(row[token] - top - total) for token in tokens]
