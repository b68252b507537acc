"""QTensor: one stored tensor, still in its file's bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid.formats.quant import QuantType, dequantize


@dataclass(frozen=True, eq=False)
class QTensor:
    """A named tensor as a read-only view of a (memory-mapped) file.

    `shape` is in NumPy order, outermost axis first: a linear weight is (outputs, inputs). Quantised types put their
    blocks along the last axis, so a row is always a whole number of bytes. `data` is a flat uint8 view of exactly
    `type.nbytes(shape)` bytes; it stays valid as long as this object lives.
    """

    name: str
    type: QuantType
    shape: tuple[int, ...]
    data: npt.NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        return int(self.data.nbytes)

    @property
    def row_nbytes(self) -> int:
        """Bytes of one row, that is of `shape[-1]` weights."""
        return self.type.nbytes((self.shape[-1],))

    def dequantize(self) -> npt.NDArray[np.float32]:
        """The weights in float32, in `shape`: the specification every kernel is tested against."""
        return dequantize(self.type, self.data, self.shape)

    def rows(self, start: int, stop: int) -> QTensor:
        """Rows [start, stop) of a matrix, without copying."""
        n = self.row_nbytes
        return QTensor(
            f"{self.name}[{start}:{stop}]", self.type, (stop - start, *self.shape[1:]), self.data[start * n : stop * n]
        )
