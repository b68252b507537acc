"""safetensors: tensors in one file, or in shards that an index names.

Source: the safetensors format description (huggingface/safetensors, README). Layout: header length u64, little-endian |
header, a JSON object: name → {"dtype", "shape", "data_offsets": [begin, end]}, and optionally "__metadata__": name →
text | data, which the tensors cover without gap or overlap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.errors import FormatError, ModelNotFound, UnsupportedModel
from pellucid.formats.folder import inside
from pellucid.formats.json_file import parse_json_object, read_json_object
from pellucid.formats.mapped import map_file
from pellucid.formats.qtensor import QTensor
from pellucid.formats.quant import QuantType

MAX_HEADER_NBYTES = 2 << 20  # 19,000 tensors; the largest model of a family we read (405B) has 1,138
MAX_INDEX_NBYTES = 2 << 20
MAX_NAME_LENGTH = 256
MAX_DIMS = 8
MAX_SHARDS = 999

_DTYPES = {"F32": QuantType.F32, "F16": QuantType.F16, "BF16": QuantType.BF16}
# Those of the format that we do not read, so that a refusal can name them.
_OTHER_DTYPES = {
    "BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "I16", "U16", "I32", "U32", "C64",
    "F64", "I64", "U64",
}  # fmt: skip


@dataclass(frozen=True)
class _Entry:
    """A tensor of the header; `begin` and `end` count from the start of the data."""

    name: str
    type: QuantType
    shape: tuple[int, ...]
    begin: int
    end: int


def read_safetensors(path: Path) -> dict[str, QTensor]:
    """The tensors of one file, in the header's order, as views of the mapped file.

    Raises FormatError for a damaged or hostile file, UnsupportedModel for a dtype other than F32, F16 and BF16.
    """
    buffer = map_file(path)
    what = f"{path.name!r}"
    header_nbytes = int.from_bytes(buffer[:8], "little")
    if len(buffer) < 8 or not 2 <= header_nbytes <= len(buffer) - 8:
        raise FormatError(f"{what} announces a header of {header_nbytes} bytes, but has {len(buffer)} bytes in all")
    if header_nbytes > MAX_HEADER_NBYTES:
        raise FormatError(f"{what} announces a header of {header_nbytes} bytes, the limit is {MAX_HEADER_NBYTES}")
    data_start = 8 + header_nbytes
    header = parse_json_object(buffer[8:data_start], f"the header of {what}")
    _check_metadata(header.pop("__metadata__", {}), what)
    entries = [_entry(name, value, f"{what}: tensor {name[:80]!r}") for name, value in header.items()]
    _check_layout(entries, len(buffer) - data_start, what)
    whole = np.frombuffer(buffer, np.uint8)
    return {
        entry.name: QTensor(
            entry.name, entry.type, entry.shape, whole[data_start + entry.begin : data_start + entry.end]
        )
        for entry in entries
    }


def read_sharded_safetensors(index_path: Path) -> dict[str, QTensor]:
    """The tensors of all shards that `*.safetensors.index.json` names, in the index's order.

    The index and the shards must agree: each tensor in exactly the shard it is said to be in, and no other tensors.
    """
    what = f"{index_path.name!r}"
    weight_map = read_json_object(index_path, MAX_INDEX_NBYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f"{what} has no object 'weight_map' that names the shard of each tensor")
    shards = {name: _shard_path(index_path, name) for name in dict.fromkeys(_strings(weight_map, what))}
    if len(shards) > MAX_SHARDS:
        raise FormatError(f"{what} names {len(shards)} shards, the limit is {MAX_SHARDS}")
    found: dict[str, QTensor] = {}
    for shard, path in shards.items():
        for name, tensor in read_safetensors(path).items():
            if weight_map.get(name) != shard:
                raise FormatError(f"{shard!r} holds the tensor {name!r}, which {what} does not place there")
            found[name] = tensor
    missing = [name for name in weight_map if name not in found]
    if missing:
        raise FormatError(f"{what} places {missing[0]!r} in {weight_map[missing[0]]!r}, which does not hold it")
    return {name: found[name] for name in weight_map}


def _strings(weight_map: dict[str, Any], what: str) -> list[str]:
    for name, shard in weight_map.items():
        if not isinstance(shard, str):
            raise FormatError(f"{what}: the shard of {name[:80]!r} is {shard!r:.80}, expected a file name")
    return list(weight_map.values())


def _shard_path(index_path: Path, name: str) -> Path:
    if not name.endswith(".safetensors"):
        raise FormatError(f"{index_path.name!r} names the shard {name[:80]!r}, expected a file NAME.safetensors")
    path = inside(index_path.parent, name)
    if path is None:
        raise ModelNotFound(f"{index_path.name!r} names the shard {name!r}, which is missing beside it")
    return path


def _check_metadata(metadata: Any, what: str) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError(f"the header of {what} has a '__metadata__' that is not an object of strings")


def _entry(name: str, value: Any, what: str) -> _Entry:
    if not name or len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise FormatError(f"{what}: a name has 1 to {MAX_NAME_LENGTH} characters and no control characters")
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{what} is {value!r:.80}, expected an object with dtype, shape and data_offsets")
    type = _quant_type(value["dtype"], what)
    shape = _integers(value["shape"], f"{what}: shape")
    if len(shape) > MAX_DIMS:
        raise FormatError(f"{what} has {len(shape)} dimensions, the limit is {MAX_DIMS}")
    offsets = _integers(value["data_offsets"], f"{what}: data_offsets")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FormatError(f"{what}: data_offsets is {list(offsets)}, expected [begin, end] with begin <= end")
    begin, end = offsets
    nbytes = math.prod(shape) * type.block_nbytes
    if end - begin != nbytes:
        raise FormatError(f"{what}, {type.name} {list(shape)}, takes {nbytes} bytes, but spans {end - begin}")
    return _Entry(name, type, shape, begin, end)


def _quant_type(dtype: Any, what: str) -> QuantType:
    if isinstance(dtype, str) and dtype in _DTYPES:
        return _DTYPES[dtype]
    message = f"dtype {dtype!r:.40}; those read are {', '.join(_DTYPES)}"
    if isinstance(dtype, str) and dtype in _OTHER_DTYPES:
        raise UnsupportedModel(f"{what} has the {message}")
    raise FormatError(f"{what} has the unknown {message}")


def _integers(value: Any, what: str) -> tuple[int, ...]:
    # type() and not isinstance: true and 1.0 are not sizes.
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < 1 << 63 for item in value):
        raise FormatError(f"{what} is {value!r:.80}, expected a list of integers from 0 to 2^63 - 1")
    return tuple(value)


def _check_layout(entries: list[_Entry], data_nbytes: int, what: str) -> None:
    """The tensors cover the data exactly, in some order."""
    end, previous = 0, "the header"
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != end:
            relation = "overlaps" if entry.begin < end else "leaves a gap after"
            raise FormatError(
                f"{what}: tensor {entry.name!r} starts at data byte {entry.begin} and {relation} {previous}"
            )
        end, previous = entry.end, repr(entry.name)
    if end != data_nbytes:
        raise FormatError(
            f"{what} has {data_nbytes} bytes of data, but its tensors take {end}; it is truncated or damaged: "
            "download it again"
        )
