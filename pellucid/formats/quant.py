"""The stored types: how many bytes a block takes, and what its bits mean.

This module is the specification of every quantised type Pellucid reads. It is written for reading; kernels are tested
against it. All numbers are little-endian; f16 is IEEE binary16. A row of a tensor is a whole number of blocks, and
`blocks` below is always uint8 [num_blocks, block_nbytes]; a decoder returns float32 [num_blocks, block_size].

Sources: the block structs and conversions of ggml (ggml-common.h, ggml-quants.c, MIT) for the GGML types; the OCP
Microscaling Formats (MX) specification v1.0 for MXFP4; IEEE 754 and the bfloat16 convention for the plain ones.
Every product below has at most 24 significant bits, so only a final subtraction or addition rounds: any order of the
multiplications gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum

import numpy as np
import numpy.typing as npt

from pellucid.errors import FormatError

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class QuantType(Enum):
    """A stored type: its number in GGUF files, weights in a block, bytes of a block."""

    F32 = (0, 1, 4)
    F16 = (1, 1, 2)
    BF16 = (30, 1, 2)
    Q4_0 = (2, 32, 18)
    Q4_1 = (3, 32, 20)
    Q5_0 = (6, 32, 22)
    Q5_1 = (7, 32, 24)
    Q8_0 = (8, 32, 34)
    Q2_K = (10, 256, 84)
    Q3_K = (11, 256, 110)
    Q4_K = (12, 256, 144)
    Q5_K = (13, 256, 176)
    Q6_K = (14, 256, 210)
    IQ4_NL = (20, 32, 18)
    IQ4_XS = (23, 256, 136)
    MXFP4 = (39, 32, 17)

    def __init__(self, ggml_id: int, block_size: int, block_nbytes: int) -> None:
        self.ggml_id = ggml_id
        self.block_size = block_size
        self.block_nbytes = block_nbytes

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor of `shape` (outermost axis first). FormatError if a row is not a whole number of blocks."""
        row = shape[-1] if shape else 1
        if row % self.block_size:
            raise FormatError(
                f"{self.name} stores {self.block_size} weights in a block, but a row of shape {list(shape)} has {row}; "
                "the tensor's type or shape is wrong"
            )
        return math.prod(shape) // self.block_size * self.block_nbytes


def dequantize(type: QuantType, data: Bytes, shape: tuple[int, ...]) -> Floats:
    """The weights of a tensor as a new float32 array of `shape`, from its flat bytes `data` uint8 [type.nbytes(shape)].

    Raises FormatError when the bytes and the shape do not belong together.
    """
    if data.nbytes != type.nbytes(shape):
        raise FormatError(f"{type.name} {list(shape)} takes {type.nbytes(shape)} bytes, got {data.nbytes}")
    blocks = data.reshape(-1, type.block_nbytes)
    out = np.empty((len(blocks), type.block_size), dtype=np.float32)
    decode = _DECODERS[type]
    step = max(1, _CHUNK_WEIGHTS // type.block_size)
    for start in range(0, len(blocks), step):
        out[start : start + step] = decode(blocks[start : start + step])
    return out.reshape(shape)


# Intermediates of one chunk stay in the cache, and a 700 MB tensor needs no second 700 MB.
_CHUNK_WEIGHTS = 1 << 18

# The 16 levels of IQ4_NL and IQ4_XS, fitted to a normal distribution (ggml's kvalues_iq4nl).
_NONLINEAR_4BIT = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)

# FP4 E2M1 (MX specification, table 3): sign, two exponent bits, one mantissa bit.
_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)

# E8M0 (MX specification, section 5.4.1): a power of two, the last code NaN.
_E8M0 = np.array([2.0 ** (e - 127) for e in range(255)] + [np.nan], np.float32)


def _f16(blocks: Bytes, at: int) -> Floats:
    """The f16 field at byte `at` of every block, as float32 [num_blocks, 1]."""
    return blocks[:, at : at + 2].copy().view("<f2").astype(np.float32)


def _nibbles(qs: Bytes) -> Bytes:
    """[..., n] bytes → [..., 2n] values 0…15: all low nibbles first, then all high ones."""
    return np.concatenate((qs & 0x0F, qs >> 4), axis=-1)


def _bits(qh: Bytes) -> Bytes:
    """[..., n] bytes → [..., 8n] bits 0 or 1, lowest bit first."""
    return np.unpackbits(qh, axis=-1, bitorder="little")


def _f32(blocks: Bytes) -> Floats:
    """F32, 4 bytes: IEEE binary32."""
    return blocks.copy().view("<f4").astype(np.float32, copy=False)


def _f16_plain(blocks: Bytes) -> Floats:
    """F16, 2 bytes: IEEE binary16."""
    return _f16(blocks, 0)


def _bf16(blocks: Bytes) -> Floats:
    """BF16, 2 bytes: the upper half of a binary32."""
    return (blocks.copy().view("<u2").astype(np.uint32) << 16).view(np.float32)


def _q4_0(blocks: Bytes) -> Floats:
    """Q4_0, 18 bytes for 32: d f16 | qs[16]. Weight j is the low nibble of qs[j], weight j+16 its high nibble.

    w = d (q - 8)
    """
    return _f16(blocks, 0) * (_nibbles(blocks[:, 2:]).astype(np.float32) - 8)


def _q4_1(blocks: Bytes) -> Floats:
    """Q4_1, 20 bytes for 32: d f16 | m f16 | qs[16], nibbles as in Q4_0.

    w = d q + m
    """
    return _f16(blocks, 0) * _nibbles(blocks[:, 4:]) + _f16(blocks, 2)


def _q5_0(blocks: Bytes) -> Floats:
    """Q5_0, 22 bytes for 32: d f16 | qh[4] | qs[16]. Bit j of qh (one little-endian u32) is the fifth bit of weight j.

    w = d (q - 16)
    """
    q = _nibbles(blocks[:, 6:]) | _bits(blocks[:, 2:6]) << 4
    return _f16(blocks, 0) * (q.astype(np.float32) - 16)


def _q5_1(blocks: Bytes) -> Floats:
    """Q5_1, 24 bytes for 32: d f16 | m f16 | qh[4] | qs[16], bits as in Q5_0.

    w = d q + m
    """
    q = _nibbles(blocks[:, 8:]) | _bits(blocks[:, 4:8]) << 4
    return _f16(blocks, 0) * q + _f16(blocks, 2)


def _q8_0(blocks: Bytes) -> Floats:
    """Q8_0, 34 bytes for 32: d f16 | qs i8[32].

    w = d q
    """
    return _f16(blocks, 0) * blocks[:, 2:].view(np.int8)


def _two_bits(qs: Bytes) -> Bytes:
    """Q2_K's and Q3_K's order: qs [n, 64] → [n, 256]. Each half of 32 bytes holds 128 weights; bits 2k, 2k+1 of byte l
    are weight 32k + l of that half."""
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    pairs: Bytes = qs.reshape(-1, 2, 1, 32) >> shifts & np.uint8(3)
    return pairs.reshape(-1, 256)


def _q2_k(blocks: Bytes) -> Floats:
    """Q2_K, 84 bytes for 256 in 16 sub-blocks of 16: scales[16] | qs[64] | d f16 | dmin f16.

    scales[i]: low nibble the scale, high nibble the minimum of sub-block i; qs in the order of `_two_bits`.
    w = d scale q - dmin minimum
    """
    packed = _nibbles(blocks[:, :16])
    scale, minimum = _f16(blocks, 80) * packed[:, :16], _f16(blocks, 82) * packed[:, 16:]
    q = _two_bits(blocks[:, 16:80]).reshape(-1, 16, 16)
    weights: Floats = scale[:, :, None] * q - minimum[:, :, None]
    return weights.reshape(-1, 256)


def _q3_k(blocks: Bytes) -> Floats:
    """Q3_K, 110 bytes for 256 in 16 sub-blocks of 16: hmask[32] | qs[64] | scales[12] | d f16.

    The low two bits of a weight are in qs (order of `_two_bits`); the third bit of weight 32k + l of half h is bit
    4h + k of hmask[l]. Six-bit scales: low four bits of scale i in the nibbles of scales[0:8] (i < 8 low, else high),
    its upper two in bits 2(i // 4), 2(i // 4)+1 of scales[8 + i % 4].
    w = d (scale - 32) (q - 4)
    """
    packed = blocks[:, 96:108]
    upper = packed[:, None, 8:] >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 4, 1) & 3
    scales = _nibbles(packed[:, :8]) | upper.reshape(-1, 16) << 4
    scale = _f16(blocks, 108) * (scales.astype(np.float32) - 32)
    third = blocks[:, None, :32] >> np.arange(8, dtype=np.uint8).reshape(1, 8, 1) & 1
    q = _two_bits(blocks[:, 32:96]) | third.reshape(-1, 256) << 2
    weights: Floats = scale[:, :, None] * (q.reshape(-1, 16, 16).astype(np.float32) - 4)
    return weights.reshape(-1, 256)


def _six_bit_pairs(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Q4_K's and Q5_K's eight scales and eight minima, six bits each, from 12 bytes [n, 12] → two of [n, 8].

    i < 4: scale = low 6 bits of packed[i], minimum = low 6 bits of packed[i + 4].
    i ≥ 4: low four bits in packed[i + 4] (scale low nibble, minimum high nibble), upper two bits in the top of
    packed[i - 4] (scale) and of packed[i] (minimum).
    """
    a, b, c = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate((a & 0x3F, (c & 0x0F) | (a >> 6) << 4), axis=1)
    minima = np.concatenate((b & 0x3F, (c >> 4) | (b >> 6) << 4), axis=1)
    return scales, minima


def _q4_k(blocks: Bytes) -> Floats:
    """Q4_K, 144 bytes for 256 in 8 sub-blocks of 32: d f16 | dmin f16 | scales[12] | qs[128].

    Each 32 bytes of qs hold two sub-blocks: the low nibbles, then the high nibbles. Scales as in `_six_bit_pairs`.
    w = d scale q - dmin minimum
    """
    scales, minima = _six_bit_pairs(blocks[:, 4:16])
    scale, minimum = _f16(blocks, 0) * scales, _f16(blocks, 2) * minima
    q = _nibbles(blocks[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    weights: Floats = scale[:, :, None] * q - minimum[:, :, None]
    return weights.reshape(-1, 256)


def _q5_k(blocks: Bytes) -> Floats:
    """Q5_K, 176 bytes for 256 in 8 sub-blocks of 32: d f16 | dmin f16 | scales[12] | qh[32] | qs[128].

    As Q4_K, with the fifth bit of weight l of sub-block i in bit i of qh[l].
    w = d scale q - dmin minimum
    """
    scales, minima = _six_bit_pairs(blocks[:, 4:16])
    scale, minimum = _f16(blocks, 0) * scales, _f16(blocks, 2) * minima
    fifth = blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8).reshape(1, 8, 1) & 1
    q = _nibbles(blocks[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32) | fifth << 4
    weights: Floats = scale[:, :, None] * q - minimum[:, :, None]
    return weights.reshape(-1, 256)


def _q6_k(blocks: Bytes) -> Floats:
    """Q6_K, 210 bytes for 256 in 16 sub-blocks of 16: ql[128] | qh[64] | scales i8[16] | d f16.

    Each half of 128 weights has 64 bytes of ql and 32 of qh. Its weights 0…63 take their low four bits from the low
    nibbles of ql, 64…127 from the high nibbles; weight 32k + l takes its upper two from bits 2k, 2k+1 of qh[l].
    w = d scale (q - 32)
    """
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64)).reshape(-1, 256)
    q = low | _two_bits(blocks[:, 128:192]) << 4
    scale = _f16(blocks, 208) * blocks[:, 192:208].view(np.int8)
    return (scale[:, :, None] * (q.reshape(-1, 16, 16).astype(np.float32) - 32)).reshape(-1, 256)


def _iq4_nl(blocks: Bytes) -> Floats:
    """IQ4_NL, 18 bytes for 32: d f16 | qs[16], nibbles as in Q4_0, each an index into 16 uneven levels.

    w = d level[q]
    """
    return _f16(blocks, 0) * _NONLINEAR_4BIT[_nibbles(blocks[:, 2:])]


def _iq4_xs(blocks: Bytes) -> Floats:
    """IQ4_XS, 136 bytes for 256 in 8 sub-blocks of 32: d f16 | scales_h u16 | scales_l[4] | qs[128].

    Sub-block i is 16 bytes of qs with nibbles as in Q4_0. Its six-bit scale: low four bits in nibble i of scales_l,
    upper two in bits 2i, 2i+1 of scales_h.
    w = d (scale - 32) level[q]
    """
    shifts = np.array([0, 2, 4, 6], np.uint8)
    low = _nibbles(blocks[:, 4:8, None]).reshape(-1, 8)
    upper = (blocks[:, 2:4, None] >> shifts & 3).reshape(-1, 8)
    scale = _f16(blocks, 0) * ((low | upper << 4).astype(np.float32) - 32)
    levels = _NONLINEAR_4BIT[_nibbles(blocks[:, 8:].reshape(-1, 8, 16))]
    return (scale[:, :, None] * levels).reshape(-1, 256)


def _mxfp4(blocks: Bytes) -> Floats:
    """MXFP4, 17 bytes for 32: e u8 (E8M0) | qs[16], nibbles as in Q4_0, each an FP4 E2M1 number.

    w = 2^(e - 127) value[q];  e = 255 means NaN.
    """
    return _E8M0[blocks[:, :1]] * _E2M1[_nibbles(blocks[:, 1:])]


_DECODERS: dict[QuantType, Callable[[Bytes], Floats]] = {
    QuantType.F32: _f32,
    QuantType.F16: _f16_plain,
    QuantType.BF16: _bf16,
    QuantType.Q4_0: _q4_0,
    QuantType.Q4_1: _q4_1,
    QuantType.Q5_0: _q5_0,
    QuantType.Q5_1: _q5_1,
    QuantType.Q8_0: _q8_0,
    QuantType.Q2_K: _q2_k,
    QuantType.Q3_K: _q3_k,
    QuantType.Q4_K: _q4_k,
    QuantType.Q5_K: _q5_k,
    QuantType.Q6_K: _q6_k,
    QuantType.IQ4_NL: _iq4_nl,
    QuantType.IQ4_XS: _iq4_xs,
    QuantType.MXFP4: _mxfp4,
}
