"""GGUF files that lie: each is refused with its reason, fast and without memory, and no damage crashes the reader."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.gguf_writer import (
    ARRAY,
    F32,
    STRING,
    U16,
    U32,
    U64,
    Array,
    assemble,
    gguf_bytes,
    key_value,
    string,
    tensor_info,
)
from support.hostile import assert_refused

from pellucid.errors import FormatError, UnsupportedModel
from pellucid.formats.checkpoint import open_checkpoint
from pellucid.formats.quant import QuantType

U64_MAX = 2**64 - 1


def header(num_tensors: int = 0, num_keys: int = 0, *, version: int = 3, rest: bytes = b"\0" * 40) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_keys) + rest


def raw_value(key: str, type: int, payload: bytes) -> bytes:
    return assemble([string(key) + struct.pack("<I", type) + payload], data=b"\0" * 64)


def one_tensor(dims: list[int], type: int = 0, offset: int = 0, data: bytes = b"\0" * 64) -> bytes:
    return assemble([], [tensor_info("w", dims, type, offset)], data)


def two_tensors(offset: int, alignment: int = 32) -> bytes:
    keys = [] if alignment == 32 else [key_value("general.alignment", U32(alignment))]
    infos = [tensor_info("a", [16], 0, 0), tensor_info("b", [16], 0, offset)]
    return assemble(keys, infos, b"\0" * 256, alignment=alignment)


def nested_array(depth: int) -> bytes:
    return raw_value("deep", ARRAY, struct.pack("<IQ", ARRAY, 1) * depth + struct.pack("<IQ", 4, 0))


def alignment(value: Any) -> bytes:
    return assemble([key_value("general.alignment", value)], data=b"\0" * 64)


BIG_ENDIAN = b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + b"\0" * 40

DAMAGED = {
    "bad magic": (b"GGML" + header()[4:], "starts with b'GGML'"),
    "other endian magic": (b"FUGG" + header()[4:], "starts with b'FUGG'"),
    "empty": (b"", "is empty"),
    "three bytes": (b"GGU", "starts with b'GGU'"),
    "an array cut off in its count": (
        header(0, 1, rest=string("k") + struct.pack("<IIH", ARRAY, 4, 1)),
        "needs 8 bytes",
    ),
    "2^64-1 tensors": (header(num_tensors=U64_MAX), f"announces {U64_MAX} tensors"),
    "2^64-1 keys": (header(num_keys=U64_MAX), f"announces {U64_MAX} metadata keys"),
    "more keys than fit": (header(num_keys=3), "announces 3 metadata keys"),
    "a key of 2^63 bytes": (header(0, 1, rest=struct.pack("<Q", 2**63) + b"x" * 40), "9223372036854775808 bytes"),
    "a string of 2^63 bytes": (raw_value("k", STRING, struct.pack("<Q", 2**63)), "9223372036854775808 bytes"),
    "a string of 1 GiB": (raw_value("k", STRING, struct.pack("<Q", 1 << 30)), "1073741824 bytes"),
    "a string of 16 MiB": (raw_value("k", STRING, struct.pack("<Q", 1 << 24)), "needs 16777216 bytes at offset"),
    "a string array with a length of 2^63": (
        raw_value("k", ARRAY, struct.pack("<IQQ", STRING, 2, 1) + b"a" + struct.pack("<Q", 2**63)),
        "9223372036854775808 bytes",
    ),
    "2^64-1 strings": (raw_value("k", ARRAY, struct.pack("<IQ", STRING, U64_MAX)), f"announces {U64_MAX} elements"),
    "2^61 numbers": (raw_value("k", ARRAY, struct.pack("<IQ", 12, 2**61)), f"announces {2**61} elements"),
    "2^60 arrays": (raw_value("k", ARRAY, struct.pack("<IQ", ARRAY, 2**60)), f"announces {2**60} elements"),
    "arrays nested 5 deep": (nested_array(4), "nests arrays more than 4 deep"),
    "arrays nested 10,000 deep": (nested_array(10_000), "nests arrays more than 4 deep"),
    "more than 2^20 strings in two arrays": (
        assemble([key_value(key, [""] * 600_000) for key in "ab"]),
        "announces 600000 elements of key 'b', but the limit is 448576",
    ),
    "more than 4,096 inner arrays": (
        raw_value("k", ARRAY, struct.pack("<IQ", ARRAY, 3) + (struct.pack("<IQ", ARRAY, 2000) + bytes(24_000)) * 3),
        "announces 2000 elements of key 'k', but the limit is 93",
    ),
    "unknown value type": (raw_value("k", 13, b"\0" * 8), "unknown value type 13"),
    "value type 2^32-1": (raw_value("k", 2**32 - 1, b"\0" * 8), "unknown value type 4294967295"),
    "unknown element type": (raw_value("k", ARRAY, struct.pack("<IQ", 99, 1)), "unknown value type 99"),
    "a bool that is 2": (raw_value("k", 7, b"\2"), "the byte 2 where a bool"),
    "an array of bools with a 255": (raw_value("k", ARRAY, struct.pack("<IQ", 7, 2) + b"\1\xff"), "the byte 255"),
    "NaN in the metadata": (raw_value("k", 6, struct.pack("<f", float("nan"))), "is nan, which is not a finite"),
    "Inf in the metadata": (raw_value("k", 12, struct.pack("<d", float("inf"))), "is inf, which is not a finite"),
    "text that is not UTF-8": (raw_value("k", STRING, string(b"a\xff")), "is not UTF-8: .* at its byte 1"),
    "a token that is not UTF-8": (
        assemble([key_value("k", Array(STRING, ["a"] * 100 + [b"\xc3"] + ["b"] * 100))]),
        "is not UTF-8",
    ),
    "a key that is not UTF-8": (
        assemble([string(b"\xff") + struct.pack("<II", 4, 1)]),
        "name of key 0 .* is not UTF-8",
    ),
    "an empty key": (assemble([key_value("", U32(1))], data=b"\0" * 64), "not empty"),
    "a key with an escape sequence": (assemble([key_value("a\x1b[2J", U32(1))]), "no control characters"),
    "the same key twice": (assemble([key_value("k", U32(1)), key_value("k", U32(1))]), "'k' appears twice"),
    "alignment 0": (alignment(U32(0)), "general.alignment is UINT32 0"),
    "alignment 3": (alignment(U32(3)), "general.alignment is UINT32 3"),
    "alignment 2^31": (alignment(U32(2**31)), "general.alignment is UINT32 2147483648"),
    "alignment as text": (alignment("32"), "general.alignment is STRING '32'"),
    "alignment as u64": (alignment(U64(32)), "general.alignment is UINT64 32"),
    "alignment as an array": (alignment(np.zeros(1 << 12, np.uint32)), "general.alignment is ARRAY"),
    "0 dimensions": (one_tensor([]), "has 0 dimensions"),
    "5 dimensions": (one_tensor([1] * 5), "has 5 dimensions"),
    "2^32-1 dimensions": (
        assemble([], [string("w") + struct.pack("<I", 2**32 - 1) + b"\1" * 64], b"\0" * 64),
        "has 4294967295 dimensions",
    ),
    "a dimension of 0": (one_tensor([4, 0]), r"dimension of 0: \[4, 0\]"),
    "dims whose product wraps to 0": (one_tensor([2**32, 2**32]), "takes data bytes 0 to 73786976294838206464"),
    "dims whose bytes wrap to 4": (one_tensor([2**62 + 1]), "takes data bytes 0 to 18446744073709551620"),
    "rows that are no whole blocks": (one_tensor([31, 32], type=2), "rows of 31 weights, but Q4_0 stores blocks of 32"),
    "tensor type -1": (one_tensor([16], type=2**32 - 1), "unknown tensor type 4294967295"),
    "tensor type 99": (one_tensor([16], type=99), "unknown tensor type 99"),
    "an offset past the end": (one_tensor([16], offset=96), "takes data bytes 96 to 160, but the file has 64"),
    "an offset of 2^64-32": (one_tensor([16], offset=2**64 - 32), "takes data bytes 18446744073709551584"),
    "one byte too few": (one_tensor([16], data=b"\0" * 63), "takes data bytes 0 to 64, but the file has 63"),
    "an unaligned offset": (two_tensors(72), "offset 72, which is not a multiple of the alignment 32"),
    "an offset that another alignment forbids": (two_tensors(96, 64), "not a multiple of the alignment 64"),
    "overlapping tensors": (two_tensors(32), "tensors 'a' and 'b' overlap"),
    "the same bytes twice": (two_tensors(0), "tensors 'a' and 'b' overlap"),
    "the same tensor twice": (
        assemble([], [tensor_info("w", [16], 0, 0), tensor_info("w", [16], 0, 64)], b"\0" * 128),
        "tensor 'w' appears twice",
    ),
    "a tensor without a name": (assemble([], [tensor_info("", [16], 0, 0)], b"\0" * 64), "not empty"),
    "a tensor name of 300 bytes": (assemble([], [tensor_info("w" * 300, [16], 0, 0)], b"\0" * 64), "limit is 256"),
}
UNSUPPORTED = {
    "version 0": (header(version=0), "GGUF version 0"),
    "version 1": (header(version=1), "GGUF version 1;"),
    "version 99": (header(version=99), "GGUF version 99"),
    "big-endian": (BIG_ENDIAN, "big-endian"),
    "a removed tensor type": (one_tensor([32], type=4), "Q4_2, which was removed"),
    "another removed tensor type": (one_tensor([32], type=33), "Q4_0_8_8, which was removed"),
    "a tensor type we do not read": (one_tensor([256], type=16), "stored as IQ2_XXS; the types read are F32, F16"),
    "integers": (one_tensor([16], type=26), "stored as I32"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_refused(tmp_path: Path, name: str) -> None:
    data, match = DAMAGED[name]
    path = tmp_path / "hostile.gguf"
    path.write_bytes(data)
    assert_refused(path, FormatError, match)


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_read_is_refused_by_name(tmp_path: Path, name: str) -> None:
    data, match = UNSUPPORTED[name]
    path = tmp_path / "hostile.gguf"
    path.write_bytes(data)
    assert_refused(path, UnsupportedModel, match)


def test_two_gibibytes_do_not_help_a_liar(tmp_path: Path) -> None:
    """Lengths that the (sparse) file's size allows meet the limits of strings, arrays and counts."""
    path = tmp_path / "hostile.gguf"
    for data, match in (
        (raw_value("k", STRING, struct.pack("<Q", 1 << 30)), "announces 1073741824 bytes of text"),
        (raw_value("k", ARRAY, struct.pack("<IQ", STRING, 1 << 26)), "announces 67108864 elements"),
        (raw_value("k", ARRAY, struct.pack("<IQ", 0, 1 << 30)), "announces 1073741824 elements"),
        (raw_value("k", ARRAY, struct.pack("<IQ", ARRAY, 1 << 26)), "announces 67108864 elements"),
        (header(num_tensors=1 << 24), "announces 16777216 tensors"),
        (header(num_keys=1 << 24), "announces 16777216 metadata keys"),
    ):
        path.write_bytes(data)
        with path.open("r+b") as file:
            file.truncate(2 << 30)
        assert_refused(path, FormatError, match)


@pytest.mark.parametrize("number", [0, 7, 12])
def test_many_arrays_that_are_small_enough_alone(tmp_path: Path, number: int) -> None:
    """Sixty-four arrays of 4 MiB, one key after another in a sparse file."""
    nbytes, path = 4 << 20, tmp_path / "hostile.gguf"
    count = nbytes // (8 if number == 12 else 1)
    with path.open("wb") as file:
        file.write(header(num_keys=64, rest=b""))
        for index in range(64):
            file.write(string(f"k{index}") + struct.pack("<IIQ", ARRAY, number, count))
            file.seek(nbytes, 1)
        file.write(b"\0" * 64)
    assert_refused(path, FormatError, "the header's values pass 50331648 bytes in all")


def test_many_long_texts(tmp_path: Path) -> None:
    text, path = string("x" * 250) * 4096, tmp_path / "hostile.gguf"
    arrays = [string(f"k{i}") + struct.pack("<IIQ", ARRAY, STRING, 4096) + text for i in range(64)]
    path.write_bytes(header(num_keys=64, rest=b"".join(arrays)))
    assert_refused(path, FormatError, "the header's values pass 50331648 bytes in all")


def small_file() -> bytes:
    """A sound file with every kind of value and three tensors, for cutting and flipping."""
    metadata = {
        "general.architecture": "llama",
        "general.alignment": U32(32),
        "u16": U16(7),
        "f32": F32(0.5),
        "flag": True,
        "numbers": np.arange(3, dtype=np.int32),
        "nested": Array(ARRAY, [Array(STRING, ["a"]), Array(4, [1])]),
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "<0x0A>", "é"],
        "tokenizer.ggml.scores": np.zeros(4, np.float32),
        "tokenizer.ggml.token_type": np.array([2, 3, 6, 1], np.int32),
        "tokenizer.ggml.eos_token_id": U32(1),
    }
    tensors = {
        "a": (QuantType.F32, (2, 4), np.ones(8, np.float32)),
        "b": (QuantType.Q4_0, (1, 32), np.ones(18, np.uint8)),
        "c": (QuantType.F16, (3,), np.ones(3, np.float16)),
    }
    return gguf_bytes(metadata, tensors)


def opens(path: Path, data: bytes) -> bool:
    """Whether the file is read, all of its weights included. Anything but a PellucidError fails the test."""
    with path.open("r+b" if path.exists() else "w+b") as file:  # truncating a file to 0 is slow on some systems
        file.write(data)
        file.truncate()
    start = time.perf_counter()
    try:
        with open_checkpoint(path) as checkpoint, np.errstate(all="ignore"):
            for tensor in checkpoint.tensors.values():
                tensor.dequantize()
    except (FormatError, UnsupportedModel):
        return False
    finally:
        assert time.perf_counter() - start < 1
    return True


def test_truncation_at_every_byte(tmp_path: Path) -> None:
    """A file is read only when all of its tensors are there."""
    data = small_file()
    assert opens(tmp_path / "cut.gguf", data)
    for length in range(len(data)):
        assert not opens(tmp_path / "cut.gguf", data[:length]), length


def test_every_flipped_bit_and_byte_of_the_header(tmp_path: Path) -> None:
    """Read or refused, but never another exception; most of what is read differs in a name or a text only."""
    data = small_file()
    header_nbytes = len(data) - 70
    assert data[header_nbytes:].startswith(np.ones(8, np.float32).tobytes())
    read = 0
    for position in range(header_nbytes):
        masks = range(1, 256) if position < 24 else (1, 2, 4, 8, 16, 32, 64, 128, 255)
        for mask in masks:
            flipped = bytearray(data)
            flipped[position] ^= mask
            read += opens(tmp_path / "flipped.gguf", bytes(flipped))
    assert 0 < read < 0.5 * (24 * 255 + (header_nbytes - 24) * 9)


def test_three_damages_at_once(tmp_path: Path) -> None:
    """400 files with three random bytes overwritten by the values that break readers most often: read or refused."""
    data = small_file()
    rng = np.random.default_rng(0)
    read = 0
    for _ in range(400):
        damaged = bytearray(data)
        for position in rng.integers(0, len(data) - 128, 3):
            damaged[position] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
        read += opens(tmp_path / "damaged.gguf", bytes(damaged))
    assert 0 < read < 200
