"""GGUF: one file that holds metadata, vocabulary and tensors (versions 2 and 3, little-endian, split files too).

Source: the GGUF specification (ggml/docs/gguf.md). Layout: magic "GGUF" | version u32 | tensor count u64 | key count
u64 | keys and values | tensor infos | padding to `general.alignment` | tensor data.

The file is untrusted. Every length and offset is a Python integer compared with the file's real size before anything
is allocated for it, and no tensor may lie outside the data, across another one, or have a size that is not its shape's.
"""

from __future__ import annotations

import math
import mmap
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.errors import FormatError, ModelNotFound, UnsupportedModel
from pellucid.formats.gguf_header import HeaderCursor, ValueType
from pellucid.formats.mapped import map_file
from pellucid.formats.qtensor import QTensor
from pellucid.formats.quant import QuantType

MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 16
MAX_KEY_NBYTES = 65_535
MAX_TENSOR_NAME_NBYTES = 256  # the specification says 64; some converters go beyond
MAX_DIMS = 4
MAX_SPLITS = 999
ALIGNMENTS = tuple(1 << i for i in range(3, 17))
DEFAULT_ALIGNMENT = 32

_KEY_MIN_NBYTES = 8 + 1 + 4 + 1
_TENSOR_MIN_NBYTES = 8 + 1 + 4 + 8 + 4 + 8

SPLIT_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")

# Type numbers that exist in ggml and that we do not read, so that a refusal can name them.
_OTHER_TYPES = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S", 24: "I8",
    25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 40: "NVFP4",
}  # fmt: skip
_REMOVED_TYPES = {
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}  # fmt: skip
_TYPES = {type.ggml_id: type for type in QuantType}


@dataclass(frozen=True)
class _TensorInfo:
    """Where a tensor lies: `start` counts from the beginning of the data section."""

    name: str
    type: QuantType
    shape: tuple[int, ...]
    start: int
    nbytes: int


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, QTensor]]:
    """Metadata and tensors of a GGUF file; of all of its parts if it is split (any part may be named).

    Metadata values are int, float, bool, str, a NumPy array (arrays of numbers, in the file's element type), a list of
    str, or a list of such arrays. Tensors are views of the mapped files. Raises FormatError for a damaged or hostile
    file, UnsupportedModel for a sound one that Pellucid does not read, ModelNotFound for a missing part.
    """
    match = SPLIT_NAME.fullmatch(path.name)
    if match is None:
        metadata, tensors = _read_file(path)
        if "split.count" in metadata:
            _expect(path, metadata, "split.count", 1)
        return metadata, tensors
    return _read_split(path, match[1], int(match[3]))


def _read_split(path: Path, stem: str, count: int) -> tuple[dict[str, Any], dict[str, QTensor]]:
    """All parts; the metadata is the first one's."""
    if not 1 <= count <= MAX_SPLITS:
        raise FormatError(f"{path.name!r} names {count} parts; a model has 1 to {MAX_SPLITS}")
    parts = [path.with_name(f"{stem}-{i:05}-of-{count:05}.gguf") for i in range(1, count + 1)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise ModelNotFound(f"{path.name!r} is split into {count} files and {missing[0]!r} is missing beside it")
    metadata: dict[str, Any] = {}
    tensors: dict[str, QTensor] = {}
    for number, part in enumerate(parts):
        keys, found = _read_file(part)
        _expect(part, keys, "split.no", number)
        _expect(part, keys, "split.count", count)
        repeated = tensors.keys() & found.keys()
        if repeated:
            raise FormatError(f"{part.name!r} repeats the tensor {min(repeated)!r} of an earlier part")
        metadata = metadata or keys
        tensors |= found
    _expect(parts[0], metadata, "split.tensors.count", len(tensors))
    return metadata, tensors


def _expect(path: Path, metadata: dict[str, Any], key: str, value: int) -> None:
    found = metadata.get(key)
    if type(found) is not int or found != value:
        shown = f"{found!r:.40}" if found is None or isinstance(found, int | float | str) else "an array"
        raise FormatError(
            f"{path.name!r}: {key} is {shown}, expected {value}; a part of a split model keeps the name "
            "NAME-00001-of-0000N.gguf it was published with, and lies beside the other parts of the same model"
        )


def _read_file(path: Path) -> tuple[dict[str, Any], dict[str, QTensor]]:
    buffer = map_file(path)
    cursor = HeaderCursor(buffer, path.name)
    _read_magic(cursor)
    num_tensors = cursor.count("tensors", MAX_TENSORS, _TENSOR_MIN_NBYTES)
    num_keys = cursor.count("metadata keys", MAX_KEYS, _KEY_MIN_NBYTES)
    metadata, alignment = _read_metadata(cursor, num_keys)
    infos = [_read_tensor_info(cursor, i, alignment) for i in range(num_tensors)]
    data_start = math.ceil(cursor.position / alignment) * alignment
    _check_layout(cursor, infos, cursor.size - data_start)
    return metadata, _views(buffer, infos, data_start)


def _read_magic(cursor: HeaderCursor) -> None:
    magic = cursor.buffer[:4]
    if magic != b"GGUF":
        raise cursor.error(f"it starts with {magic!r}, a GGUF file starts with b'GGUF'")
    cursor.skip(4, "the magic")
    version = cursor.u32("the version")
    if version in (2, 3):
        return
    if version & 0xFFFF == 0 and version:
        raise UnsupportedModel(
            f"{cursor.file_name!r} is a big-endian GGUF file; only little-endian ones are read: convert it"
        )
    raise UnsupportedModel(f"{cursor.file_name!r} is GGUF version {version}; versions 2 and 3 are read: convert it")


def _read_metadata(cursor: HeaderCursor, num_keys: int) -> tuple[dict[str, Any], int]:
    """All keys, and the alignment of the data."""
    metadata: dict[str, Any] = {}
    alignment = DEFAULT_ALIGNMENT
    for i in range(num_keys):
        key = cursor.name(f"the name of key {i}", MAX_KEY_NBYTES)
        what = f"key {key[:80]!r}"
        if key in metadata:
            raise cursor.error(f"{what} appears twice")
        type = cursor.value_type(what)
        metadata[key] = value = cursor.value(type, what)
        if key == "general.alignment":
            if type is not ValueType.UINT32 or value not in ALIGNMENTS:
                raise cursor.error(
                    f"general.alignment is {type.name} {value!r:.40}, expected UINT32 and a power of two "
                    f"from {ALIGNMENTS[0]} to {ALIGNMENTS[-1]}"
                )
            alignment = value
    return metadata, alignment


def _read_tensor_info(cursor: HeaderCursor, index: int, alignment: int) -> _TensorInfo:
    name = cursor.name(f"the name of tensor {index}", MAX_TENSOR_NAME_NBYTES)
    what = f"tensor {name!r}"
    num_dims = cursor.u32(f"the number of dimensions of {what}")
    if not 1 <= num_dims <= MAX_DIMS:
        raise cursor.error(f"{what} has {num_dims} dimensions, expected 1 to {MAX_DIMS}")
    dims = [cursor.u64(f"dimension {i} of {what}") for i in range(num_dims)]
    if 0 in dims:
        raise cursor.error(f"{what} has a dimension of 0: {dims}")
    type = _quant_type(cursor, cursor.u32(f"the type of {what}"), what)
    start = cursor.u64(f"the offset of {what}")
    if start % alignment:
        raise cursor.error(
            f"{what} starts at data offset {start}, which is not a multiple of the alignment {alignment}"
        )
    shape = tuple(reversed(dims))  # GGUF counts the innermost axis first
    if shape[-1] % type.block_size:
        raise cursor.error(
            f"{what} has rows of {shape[-1]} weights, but {type.name} stores blocks of {type.block_size}"
        )
    return _TensorInfo(name, type, shape, start, type.nbytes(shape))


def _quant_type(cursor: HeaderCursor, number: int, what: str) -> QuantType:
    if number in _TYPES:
        return _TYPES[number]
    readable = ", ".join(type.name for type in QuantType)
    if number in _OTHER_TYPES:
        raise UnsupportedModel(
            f"{cursor.file_name!r}: {what} is stored as {_OTHER_TYPES[number]}; the types read are {readable}"
        )
    if number in _REMOVED_TYPES:
        raise UnsupportedModel(
            f"{cursor.file_name!r}: {what} is stored as {_REMOVED_TYPES[number]}, which was removed from GGUF; "
            f"the types read are {readable}"
        )
    raise cursor.error(f"{what} has the unknown tensor type {number}; the types read are {readable}")


def _check_layout(cursor: HeaderCursor, infos: list[_TensorInfo], data_nbytes: int) -> None:
    """Tensors have different names, lie inside the data and do not overlap; gaps are padding."""
    names: set[str] = set()
    previous_end, previous = 0, ""
    for info in sorted(infos, key=lambda info: info.start):
        end = info.start + info.nbytes
        if info.name in names:
            raise cursor.error(f"tensor {info.name!r} appears twice")
        if end > data_nbytes:
            raise cursor.error(
                f"tensor {info.name!r}, {info.type.name} {list(info.shape)}, takes data bytes {info.start} to {end}, "
                f"but the file has {max(0, data_nbytes)}; it is truncated or damaged: download it again"
            )
        if info.start < previous_end:
            raise cursor.error(f"tensors {previous!r} and {info.name!r} overlap at data offset {info.start}")
        names.add(info.name)
        previous_end, previous = end, info.name


def _views(buffer: mmap.mmap, infos: list[_TensorInfo], data_start: int) -> dict[str, QTensor]:
    """Tensors in the order of the file's header."""
    whole = np.frombuffer(buffer, np.uint8)
    tensors = {}
    for info in infos:
        start = data_start + info.start
        tensors[info.name] = QTensor(info.name, info.type, info.shape, whole[start : start + info.nbytes])
    return tensors
