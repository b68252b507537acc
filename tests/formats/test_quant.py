"""`dequantize` is the specification, so it is checked against an independent one: the PyPI `gguf` package."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from support.blocks import random_blocks

from pellucid.errors import FormatError
from pellucid.formats.quant import QuantType, dequantize


@pytest.mark.parametrize("type", QuantType, ids=lambda type: type.name)
def test_equals_the_gguf_package_bit_for_bit(type: QuantType) -> None:
    num_rows, row_blocks = 12, 43
    blocks = random_blocks(type, num_rows * row_blocks, seed=type.ggml_id)
    if type in (QuantType.F32, QuantType.F16):  # for these the package wants arrays of the type itself
        expected = blocks.view({QuantType.F32: "<f4", QuantType.F16: "<f2"}[type]).astype(np.float32)
    else:
        expected = gguf.dequantize(blocks.reshape(num_rows, -1), gguf.GGMLQuantizationType(type.ggml_id))
    shape = (num_rows, row_blocks * type.block_size)
    got = dequantize(type, blocks.reshape(-1), shape)
    assert got.dtype == np.float32
    assert got.shape == shape
    np.testing.assert_array_equal(got, expected.reshape(shape))


@pytest.mark.parametrize("type", QuantType, ids=lambda type: type.name)
def test_sizes_agree_with_the_gguf_package(type: QuantType) -> None:
    ours = (type.block_size, type.block_nbytes)
    assert ours == gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(type.ggml_id)]
    assert gguf.GGMLQuantizationType[type.name].value == type.ggml_id
    assert type.nbytes((3, 2 * type.block_size)) == 6 * type.block_nbytes


def test_a_chunk_boundary_changes_nothing() -> None:
    """A tensor larger than one chunk, and not a multiple of it, decodes as its parts do."""
    blocks = random_blocks(QuantType.Q4_K, 2100)
    whole = dequantize(QuantType.Q4_K, blocks.reshape(-1), (2100, 256))
    parts = [dequantize(QuantType.Q4_K, blocks[i : i + 7].reshape(-1), (7, 256)) for i in range(0, 2100, 7)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_mxfp4_follows_the_mx_specification_where_ggml_does_not() -> None:
    """E8M0 255 is NaN in the MX specification; ggml reads it as 2^128 / 2."""
    block = np.full(17, 0x22, np.uint8)
    block[0] = 255
    assert np.isnan(dequantize(QuantType.MXFP4, block, (32,))).all()
    block[0] = 127
    assert (dequantize(QuantType.MXFP4, block, (32,)) == 1).all()


def test_the_result_owns_its_memory() -> None:
    data = np.zeros(16, np.uint8)
    data.flags.writeable = False
    out = dequantize(QuantType.F32, data, (4,))
    out[0] = 1
    assert data[0] == 0


def test_unaligned_data() -> None:
    raw = np.zeros(17, np.uint8)
    raw[1:] = np.arange(4, dtype="<f4").view(np.uint8)
    np.testing.assert_array_equal(dequantize(QuantType.F32, raw[1:], (2, 2)), [[0, 1], [2, 3]])


def test_empty_and_scalar_shapes() -> None:
    assert dequantize(QuantType.F32, np.zeros(0, np.uint8), (0, 4)).shape == (0, 4)
    assert dequantize(QuantType.F16, np.zeros(2, np.uint8), ()).shape == ()


def test_a_row_that_is_no_whole_number_of_blocks_is_refused() -> None:
    with pytest.raises(FormatError, match="Q4_0 stores 32 weights in a block"):
        QuantType.Q4_0.nbytes((32, 31))
    # 31 * 32 weights would be a whole number of blocks in total: the row decides.
    with pytest.raises(FormatError, match="takes 36 bytes, got 18"):
        dequantize(QuantType.Q4_0, np.zeros(18, np.uint8), (2, 32))
