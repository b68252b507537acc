"""Write a large GGUF file tensor by tensor, so that only one is in memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.gguf_writer import assemble, key_value, tensor_info  # noqa: E402

from pellucid.formats.quant import QuantType  # noqa: E402

ALIGNMENT = 32
TensorPlan = tuple[QuantType, tuple[int, ...], Callable[[], np.ndarray]]
"""Type, shape (outermost axis first), and a function that makes the data."""


def write_streaming_gguf(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, TensorPlan]) -> None:
    """Write `path`, whole or not at all. `metadata` as tests/support/gguf_writer.py takes it."""
    infos, offset = [], 0
    for name, (kind, shape, _) in tensors.items():
        infos.append(tensor_info(name, shape[::-1], kind.ggml_id, offset))
        offset += _padded(kind.nbytes(shape))
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(assemble([key_value(key, value) for key, value in metadata.items()], infos, alignment=ALIGNMENT))
        for name, (kind, shape, make) in tensors.items():
            data = make().tobytes()
            if len(data) != kind.nbytes(shape):
                raise ValueError(f"{name}: {len(data)} bytes, expected {kind.nbytes(shape)}")
            file.write(data.ljust(_padded(len(data)), b"\0"))
    os.replace(part, path)


def _padded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
