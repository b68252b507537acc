"""Random quantised blocks for tests."""

from __future__ import annotations

import numpy as np

from pellucid.formats.quant import QuantType

# Byte offsets of the f16 fields of a block.
F16_FIELDS = {
    QuantType.F16: (0,),
    QuantType.Q4_0: (0,),
    QuantType.Q4_1: (0, 2),
    QuantType.Q5_0: (0,),
    QuantType.Q5_1: (0, 2),
    QuantType.Q8_0: (0,),
    QuantType.Q2_K: (80, 82),
    QuantType.Q3_K: (108,),
    QuantType.Q4_K: (0, 2),
    QuantType.Q5_K: (0, 2),
    QuantType.Q6_K: (208,),
    QuantType.IQ4_NL: (0,),
    QuantType.IQ4_XS: (0,),
}


def random_blocks(type: QuantType, num_blocks: int, seed: int = 0) -> np.ndarray:
    """uint8 [num_blocks, block_nbytes]: random bits in every field, with finite scales of both signs."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (num_blocks, type.block_nbytes), dtype=np.uint8)
    for at in F16_FIELDS.get(type, ()):
        blocks[:, at : at + 2] = rng.standard_normal(num_blocks).astype("<f2").view(np.uint8).reshape(-1, 2)
    if type is QuantType.F32:
        blocks[:] = rng.standard_normal(num_blocks).astype("<f4").view(np.uint8).reshape(-1, 4)
    if type is QuantType.BF16:
        blocks[:, 1] &= 0xBF  # clears the top exponent bit: finite
    if type is QuantType.MXFP4:
        blocks[:, 0] = np.arange(num_blocks) % 253  # above, 6 * 2^(e - 127) overflows
    return blocks
