"""Checks on a node under construction, with messages that say where it stands."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pellucid.errors import GraphError
from pellucid.formats.qtensor import QTensor
from pellucid.graph.weights import Shape, check_shape


@dataclass(frozen=True)
class Place:
    """Where a node stands. Every check raises GraphError with its layer, name and operator in front."""

    op: str
    name: str
    layer: int | None

    def __str__(self) -> str:
        layer = "" if self.layer is None else f"layer {self.layer}, "
        return f"{layer}node {self.name} ({self.op}): "

    def error(self, message: str) -> GraphError:
        return GraphError(f"{self}{message}")

    def shape(self, tensor: QTensor, expected: Shape, reason: str = "") -> None:
        check_shape(tensor, expected, where=str(self), reason=reason)

    def vector(self, tensor: QTensor, size: int | None) -> None:
        """Biases, norms and frequencies: one axis, and stored as floats, which every executor can read directly."""
        self.shape(tensor, (size,))
        if tensor.type.block_size != 1:
            raise self.error(f"tensor {tensor.name} is {tensor.type.name}, expected F32, F16 or BF16 for a vector")
        if tensor.shape[0] == 0:
            raise self.error(f"tensor {tensor.name} is empty")

    def one_of(self, key: str, value: str, known: tuple[str, ...]) -> None:
        if value not in known:
            raise self.error(f"{key} is {value!r}, expected one of {', '.join(known)}")

    def at_least(self, key: str, value: int, minimum: int) -> int:
        if value < minimum:
            raise self.error(f"{key} is {value}, expected at least {minimum}")
        return int(value)

    def finite(self, key: str, value: float) -> float:
        if not math.isfinite(value):
            raise self.error(f"{key} is {value}, expected a finite number")
        return float(value)

    def positive(self, key: str, value: float) -> float:
        if not (math.isfinite(value) and value > 0):
            raise self.error(f"{key} is {value}, expected a finite number above 0")
        return float(value)
