"""Writes safetensors files for tests.

write_safetensors(path, {"w": np.zeros((2, 3), np.float32), "b": ("BF16", (4,), raw_bytes)})
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

Stored = np.ndarray | tuple[str, tuple[int, ...], bytes | np.ndarray]


def bf16(array: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    """`array` as BF16, rounded to nearest even."""
    bits = array.astype(np.float32).view(np.uint32).astype(np.uint64)
    upper = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return "BF16", array.shape, upper.astype("<u2").tobytes()


def assemble(header: bytes | object, data: bytes = b"", header_nbytes: int | None = None) -> bytes:
    """A file from its parts; the announced length may lie. A header that is no bytes is written as JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if header_nbytes is None else header_nbytes).to_bytes(8, "little") + text + data


def safetensors_bytes(tensors: Mapping[str, Stored], metadata: Mapping[str, str] | None = None) -> bytes:
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    data = b""
    for name, value in tensors.items():
        if isinstance(value, np.ndarray):
            value = ({"<f4": "F32", "<f2": "F16"}[value.dtype.str], value.shape, value)
        dtype, shape, raw = value
        raw = raw.tobytes() if isinstance(raw, np.ndarray) else raw
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return assemble(header, data)


def write_safetensors(path: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, str] | None = None) -> Path:
    """A sound file. Arrays are float32 or float16; other dtypes come as (dtype, shape, bytes), see `bf16`."""
    path.write_bytes(safetensors_bytes(tensors, metadata))
    return path
