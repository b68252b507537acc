"""Weights: a checkpoint's tensors by name, as a model family asks for them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pellucid.errors import GraphError
from pellucid.formats.qtensor import QTensor
from pellucid.formats.quant import QuantType

Shape = tuple[int | None, ...]
"""An expected shape, outermost axis first; None stands for any size and is written `*`."""


class Weights:
    """Looks tensors up by name, checks their shapes, and remembers which were used.

    `unused()` lets the registry refuse a checkpoint that has more than the family understands: a tensor that nobody
    read (a bias, an adapter, an extra norm) would change the answer in silence.
    """

    def __init__(self, tensors: Mapping[str, QTensor]) -> None:
        self._tensors = tensors
        self._used: set[str] = set()

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds `name`. Does not count as a use."""
        return name in self._tensors

    def get(self, name: str, shape: Shape | None = None) -> QTensor:
        """The tensor `name`. Raises GraphError when it is missing or not of `shape`."""
        tensor = self._tensors.get(name)
        if tensor is None:
            raise GraphError(f"tensor {name} is missing from the checkpoint{near_matches(name, self._tensors)}")
        if shape is not None:
            check_shape(tensor, shape)
        self._used.add(name)
        return tensor

    def optional(self, name: str, shape: Shape | None = None) -> QTensor | None:
        """The tensor `name`, or None when the checkpoint does not hold it."""
        return self.get(name, shape) if self.has(name) else None

    def transposed(self, name: str, shape: Shape | None = None) -> QTensor:
        """A copy of the float matrix `name` with its axes swapped; `shape` is the shape after the swap.

        For checkpoints that store a linear's weight as [inputs, outputs], as GPT-2's Conv1D does. Raises GraphError for
        a block-quantised tensor, whose blocks cannot be turned round without rounding again.
        """
        tensor = self.get(name)
        if len(tensor.shape) != 2:
            raise GraphError(f"tensor {name} is {format_shape(tensor.shape)}, expected a matrix to transpose")
        if tensor.type.block_size != 1:
            raise GraphError(f"tensor {name} is {tensor.type.name}; only F32, F16 and BF16 can be transposed")
        item = np.dtype(f"u{tensor.type.block_nbytes}")
        swapped = np.ascontiguousarray(tensor.data.view(item).reshape(tensor.shape).T)
        data = swapped.reshape(-1).view(np.uint8)
        data.flags.writeable = False
        result = QTensor(f"{name}.T", tensor.type, swapped.shape, data)
        if shape is not None:
            check_shape(result, shape)
        return result

    def unused(self) -> list[str]:
        """Names of the tensors that were never asked for, in the checkpoint's order."""
        return [name for name in self._tensors if name not in self._used]

    def ignore(self, name: str) -> None:
        """Count `name` as used: the family knows it and does not need it (a stored mask, a copy of a tied head)."""
        self._used.add(name)


def from_array(name: str, array: npt.ArrayLike) -> QTensor:
    """An F32 tensor made at build time, such as rope's inverse frequencies. The values are copied."""
    values = np.array(array, dtype="<f4", order="C")
    data = values.reshape(-1).view(np.uint8)
    data.flags.writeable = False
    return QTensor(name, QuantType.F32, values.shape, data)


def check_shape(tensor: QTensor, expected: Shape, *, where: str = "", reason: str = "") -> None:
    """Raise GraphError unless `tensor` has the `expected` shape. The message is between `where` and `reason`."""
    fits = len(tensor.shape) == len(expected) and all(
        want is None or have == want for have, want in zip(tensor.shape, expected, strict=True)
    )
    if not fits:
        found = format_shape(tensor.shape)
        raise GraphError(f"{where}tensor {tensor.name} is {found}, expected {format_shape(expected)}{reason}")


def format_shape(shape: Shape) -> str:
    return "[" + ", ".join("*" if size is None else str(size) for size in shape) + "]"


def near_matches(name: str, known: Mapping[str, object]) -> str:
    """The end of a "no such name" message: the most similar known names, or nothing. Looks at the first 4,096 names."""
    names = [known_name for known_name, _ in zip(known, range(4096), strict=False)]
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    return f" (near: {', '.join(close)})" if close else ""
