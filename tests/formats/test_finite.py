"""NaN and infinity are found in every field of every type that can hold one, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from support.blocks import F16_FIELDS, random_blocks

from pellucid.errors import FormatError
from pellucid.formats.finite import check_finite
from pellucid.formats.qtensor import QTensor
from pellucid.formats.quant import QuantType

NOT_FINITE = {"<f2": (0x7C00, 0xFC00, 0x7E00, 0x7C01, 0xFFFF), "<f4": (0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001)}
FINITE = {"<f2": (0, 0x8000, 1, 0x7BFF, 0xFBFF, 0x3FF), "<f4": (0, 0x80000000, 1, 0x7F7FFFFF, 0xFF7FFFFF)}
FIELDS = [
    *[(type, at, "<f2") for type, fields in F16_FIELDS.items() for at in fields],
    (QuantType.F32, 0, "<f4"),
]


def tensor(type: QuantType, blocks: np.ndarray) -> QTensor:
    return QTensor("w", type, (len(blocks), type.block_size), blocks.reshape(-1))


@pytest.mark.parametrize(("type", "at", "kind"), FIELDS, ids=lambda value: getattr(value, "name", value))
def test_every_field(type: QuantType, at: int, kind: str) -> None:
    dtype = np.dtype(kind.replace("f", "u"))
    blocks = np.full((5, type.block_nbytes), 0xFF, np.uint8)
    for field in F16_FIELDS.get(type, (0,)):
        blocks[:, field : field + dtype.itemsize] = 0
    for bits in FINITE[kind]:
        blocks[3, at : at + dtype.itemsize] = np.array([bits], dtype).view(np.uint8)
        check_finite(tensor(type, blocks))
    for bits in NOT_FINITE[kind]:
        blocks[3, at : at + dtype.itemsize] = np.array([bits], dtype).view(np.uint8)
        with pytest.raises(FormatError, match=f"'w' holds NaN or infinity in its {type.name} block 3 of 5"):
            check_finite(tensor(type, blocks))


@pytest.mark.parametrize("type", QuantType, ids=lambda type: type.name)
def test_random_finite_blocks_pass(type: QuantType) -> None:
    blocks = random_blocks(type, 1000)
    assert np.isfinite(tensor(type, blocks).dequantize()).all()
    check_finite(tensor(type, blocks))


def test_bf16() -> None:
    bits = np.array([0x7F7F, 0xFF7F, 0, 0x8000, 1], "<u2")
    check_finite(tensor(QuantType.BF16, bits.view(np.uint8).reshape(-1, 2)))
    for bad in (0x7F80, 0xFF80, 0x7FC0, 0xFFFF):
        bits[2] = bad
        with pytest.raises(FormatError, match="BF16 block 2 of 5"):
            check_finite(tensor(QuantType.BF16, bits.view(np.uint8).reshape(-1, 2)))


def test_mxfp4() -> None:
    blocks = np.full((4, 17), 0x77, np.uint8)
    blocks[:, 0] = 252
    check_finite(tensor(QuantType.MXFP4, blocks))
    for exponent in (253, 254, 255):
        blocks[1, 0] = exponent
        with pytest.raises(FormatError, match="MXFP4 block 1 of 4"):
            check_finite(tensor(QuantType.MXFP4, blocks))


@pytest.mark.parametrize("position", [0, 65_535, 65_536, 99_999])
def test_the_borders_of_the_chunks_that_are_looked_at(position: int) -> None:
    data = np.zeros(100_000, np.float32)
    data[position] = np.nan
    with pytest.raises(FormatError, match=f"block {position} of 100000"):
        check_finite(QTensor("w", QuantType.F32, (100_000,), data.view(np.uint8)))


def test_unaligned_and_empty_tensors() -> None:
    raw = np.zeros(9, np.uint8)
    raw[1:] = np.array([1, np.inf], "<f4").view(np.uint8)
    check_finite(QTensor("w", QuantType.F32, (1,), raw[1:5]))
    with pytest.raises(FormatError, match="block 1 of 2"):
        check_finite(QTensor("w", QuantType.F32, (2,), raw[1:]))
    check_finite(QTensor("w", QuantType.F32, (0, 4), raw[:0]))
