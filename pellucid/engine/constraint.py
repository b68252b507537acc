"""Constraint: which tokens may come next in one answer. The sampler asks it; `pellucid/structured/` implements it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt


class Constraint(Protocol):
    """The state of one answer; each of n answers has its own. One thread at a time.

    Both methods may raise; the request then ends with that error. An implementation never answers "everything" instead.
    """

    def mask(self) -> npt.NDArray[np.uint32]:
        """Bits [ceil(V / 32)]: bit i % 32 of word i // 32 is set if token i may be next; at least one is.

        The model's end tokens are among them exactly where the answer may end. Computed at most once for each token;
        the array is valid until the next `accept` and is not to be written to.
        """
        ...

    def accept(self, token: int) -> None:
        """Go past `token`, the one that was chosen. Raises when the mask did not allow it."""
        ...

    @property
    def is_finished(self) -> bool:
        """Nothing but an end token may follow: the answer can end without one."""
        ...
