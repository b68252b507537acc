"""Writes GGUF files for tests: plain, and able to write what a reader must refuse.

write_gguf(path, {"general.architecture": "llama", "llama.block_count": U32(2)}, {"w": (QuantType.F32, (2, 4), array)})
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.formats.quant import QuantType

_CODES = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9


@dataclass(frozen=True)
class Typed:
    """A metadata value with its GGUF type number."""

    type: int
    value: Any


def U8(value: int) -> Typed:
    return Typed(0, value)


def I8(value: int) -> Typed:
    return Typed(1, value)


def U16(value: int) -> Typed:
    return Typed(2, value)


def I16(value: int) -> Typed:
    return Typed(3, value)


def U32(value: int) -> Typed:
    return Typed(4, value)


def I32(value: int) -> Typed:
    return Typed(5, value)


def F32(value: float) -> Typed:
    return Typed(6, value)


def U64(value: int) -> Typed:
    return Typed(10, value)


def I64(value: int) -> Typed:
    return Typed(11, value)


def F64(value: float) -> Typed:
    return Typed(12, value)


@dataclass(frozen=True)
class Array:
    """An array of values of one GGUF type; of Arrays if `type` is ARRAY."""

    type: int
    values: Sequence[Any]


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def typed_value(value: Any) -> bytes:
    """Type number and value. Plain bool, int, float, str and lists of one of them become BOOL, INT32, FLOAT32, STRING
    and arrays of them; NumPy arrays become arrays of their dtype."""
    if isinstance(value, np.ndarray):
        numbers = {"u1": 0, "i1": 1, "u2": 2, "i2": 3, "u4": 4, "i4": 5, "f4": 6, "b1": 7, "u8": 10, "i8": 11, "f8": 12}
        number = numbers[value.dtype.str[1:]]
        return struct.pack("<IIQ", ARRAY, number, value.size) + value.tobytes()
    if isinstance(value, list):
        return typed_value(Array(_typed(value[0]).type if value else STRING, value))
    typed = _typed(value)
    return struct.pack("<I", typed.type) + _payload(typed.type, typed.value)


def _typed(value: Any) -> Typed:
    if isinstance(value, Typed):
        return value
    if isinstance(value, Array):
        return Typed(ARRAY, value)
    for kind, number in ((bool, 7), (int, 5), (float, 6), (str, STRING), (bytes, STRING)):
        if isinstance(value, kind):
            return Typed(number, value)
    raise TypeError(f"no GGUF type for {value!r}")


def _payload(number: int, value: Any) -> bytes:
    if number == STRING:
        return string(value)
    if number == ARRAY:
        head = struct.pack("<IQ", value.type, len(value.values))
        return head + b"".join(_payload(value.type, getattr(item, "value", item)) for item in value.values)
    return struct.pack(_CODES[number], value)


def key_value(key: str, value: Any) -> bytes:
    return string(key) + typed_value(value)


def tensor_info(name: str, dims: Sequence[int], type: int, offset: int) -> bytes:
    """`dims` as in the file: innermost first."""
    return string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, type, offset)


def assemble(
    keys: Sequence[bytes],
    infos: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    num_tensors: int | None = None,
    num_keys: int | None = None,
    alignment: int = 32,
) -> bytes:
    """A file from its parts; the counts may lie."""
    counts = (len(infos) if num_tensors is None else num_tensors, len(keys) if num_keys is None else num_keys)
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(infos)
    return head + b"\0" * (-len(head) % alignment) + data


def gguf_bytes(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, tuple[QuantType, tuple[int, ...], bytes | np.ndarray]],
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    keys = [key_value(key, value) for key, value in metadata.items()]
    if alignment != 32:
        keys.append(key_value("general.alignment", U32(alignment)))
    infos, data = [], b""
    for name, (type, shape, values) in tensors.items():
        data += b"\0" * (-len(data) % alignment)
        infos.append(tensor_info(name, shape[::-1], type.ggml_id, len(data)))
        data += values.tobytes() if isinstance(values, np.ndarray) else values
    return assemble(keys, infos, data, version=version, alignment=alignment)


def write_gguf(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, tuple[QuantType, tuple[int, ...], bytes | np.ndarray]],
    version: int = 3,
    alignment: int = 32,
) -> Path:
    """A sound file. Shapes are NumPy's (outermost first); an ndarray is written as it lies in memory."""
    path.write_bytes(gguf_bytes(metadata, tensors, version, alignment))
    return path
