"""NaN and infinity in stored weights, found without decoding them: only block scales can hold one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pellucid.errors import FormatError
from pellucid.formats.qtensor import QTensor
from pellucid.formats.quant import QuantType

Fields = npt.NDArray[np.unsignedinteger]

_F16_EXPONENT, _BF16_EXPONENT, _F32_EXPONENT = 0x7C00, 0x7F80, 0x7F800000
_TWO_F16_EXPONENTS = _F16_EXPONENT << 16 | _F16_EXPONENT

# The floating-point fields of a block: byte offset, integer type that covers them, bits of their exponents. An exponent
# of all ones is NaN or infinity (IEEE 754).
_EXPONENTS = {
    QuantType.F32: (0, "<u4", _F32_EXPONENT),
    QuantType.F16: (0, "<u2", _F16_EXPONENT),
    QuantType.BF16: (0, "<u2", _BF16_EXPONENT),
    QuantType.Q4_0: (0, "<u2", _F16_EXPONENT),
    QuantType.Q4_1: (0, "<u4", _TWO_F16_EXPONENTS),
    QuantType.Q5_0: (0, "<u2", _F16_EXPONENT),
    QuantType.Q5_1: (0, "<u4", _TWO_F16_EXPONENTS),
    QuantType.Q8_0: (0, "<u2", _F16_EXPONENT),
    QuantType.Q2_K: (80, "<u4", _TWO_F16_EXPONENTS),
    QuantType.Q3_K: (108, "<u2", _F16_EXPONENT),
    QuantType.Q4_K: (0, "<u4", _TWO_F16_EXPONENTS),
    QuantType.Q5_K: (0, "<u4", _TWO_F16_EXPONENTS),
    QuantType.Q6_K: (208, "<u2", _F16_EXPONENT),
    QuantType.IQ4_NL: (0, "<u2", _F16_EXPONENT),
    QuantType.IQ4_XS: (0, "<u2", _F16_EXPONENT),
}
_MXFP4_MAX_EXPONENT = 252  # 255 is NaN; with 253 and 254 the largest E2M1 values leave float32's range
_CHUNK_BLOCKS = 1 << 16


def check_finite(tensor: QTensor) -> None:
    """Raises FormatError if a weight is NaN or infinite, naming the tensor and the first such block.

    Reads every block's scales, so it touches all of the tensor's memory once.
    """
    type = tensor.type
    num_blocks = tensor.nbytes // type.block_nbytes
    if num_blocks == 0:
        return
    offset, kind, exponents = _EXPONENTS.get(type, (0, "|u1", 0))
    fields: Fields = np.ndarray(num_blocks, kind, tensor.data, offset, (type.block_nbytes,))
    for start in range(0, num_blocks, _CHUNK_BLOCKS):
        chunk = fields[start : start + _CHUNK_BLOCKS]
        bad = chunk > _MXFP4_MAX_EXPONENT if type is QuantType.MXFP4 else _all_ones(chunk, exponents)
        if bad.any():
            raise not_finite(tensor, start + int(np.flatnonzero(bad)[0]))


def not_finite(tensor: QTensor, block: int) -> FormatError:
    """The error for a NaN or infinity in that block of a tensor, counted along its rows."""
    return FormatError(
        f"tensor {tensor.name!r} holds NaN or infinity in its {tensor.type.name} block {block} of "
        f"{tensor.nbytes // tensor.type.block_nbytes}; the file is damaged: download it again"
    )


def _all_ones(fields: Fields, exponents: int) -> Fields:
    """Not zero where an exponent is all ones: adding its lowest bit carries out of it only then."""
    mask = fields.dtype.type(exponents)
    lowest = mask & ~(mask << 1)
    return (fields & mask) + lowest & ~mask
