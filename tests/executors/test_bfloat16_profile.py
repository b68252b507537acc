"""The profile of bfloat16 activations: sums in the order of AMX's TDPBF16PS, bit for bit, in every kernel."""

from __future__ import annotations

import os

import numpy as np
import pytest
from support.one_op import assert_close, matrix, one_op, rows_of, run

from pellucid.executors.cpu import CpuExecutor, available_isas
from pellucid.executors.reference import ReferenceExecutor, round_to_bfloat16
from pellucid.formats.qtensor import QTensor
from pellucid.formats.quant import QuantType
from pellucid.graph.builder import Norm
from pellucid.graph.ir import Graph
from pellucid.graph.weights import from_array

ISAS = available_isas()
ROW_COUNTS = (1, 2, 5, 7, 16, 40)
TINY = np.float32(2.0**-126)


def flushed(x: np.ndarray) -> np.ndarray:
    """Float32 [...] from float64, one rounding; denormals are zero."""
    single = x.astype(np.float32)
    return np.where(np.abs(single) < TINY, np.float32(0), single)


def tile_product(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """x [rows, inputs] · wᵀ [outputs, inputs] as tiles of 32 inputs compute it.

    A product of two bfloat16 numbers and its sum with a float32 number, in float64, then rounded to float32, is the
    fused multiply-add: where 53 bits do not hold the sum, one term is too small to touch the 24 of the other.

    Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, TDPBF16PS.
    """
    blocks = -(-x.shape[1] // 32)
    pad = ((0, 0), (0, 32 * blocks - x.shape[1]))
    a, b = (np.pad(round_to_bfloat16(v), pad).astype(np.float64) for v in (x, w))
    total = np.zeros((len(x), len(w)), np.float32)
    for start in range(0, 32 * blocks, 32):
        even, odd = np.zeros_like(total), np.zeros_like(total)
        for i in range(start, start + 32, 2):
            even = flushed(np.multiply.outer(a[:, i], b[:, i]) + even)
            odd = flushed(np.multiply.outer(a[:, i + 1], b[:, i + 1]) + odd)
        total = flushed(total.astype(np.float64) + flushed(even.astype(np.float64) + odd))
    return total


def product(x: np.ndarray, w: QTensor) -> Graph:
    return one_op(x, lambda g, v: g.linear(v, w))


def executor(isa: str, threads: int = 1) -> CpuExecutor:
    return CpuExecutor(threads=threads, isa=isa, activations="bfloat16")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", list(QuantType), ids=lambda t: t.name)
def test_every_type(isa: str, type: QuantType) -> None:
    for outputs, blocks in [(1, 1), (40, 3)] if type.block_size > 1 else [(1, 1), (17, 33), (40, 64)]:
        inputs = type.block_size * blocks
        x, w = rows_of(max(ROW_COUNTS), inputs, seed=blocks), matrix(type, outputs, inputs, seed=outputs)
        x[0] = 0
        found = run(executor(isa, threads=2), product(x, w), len(x))
        np.testing.assert_array_equal(found, tile_product(x, w.dequantize()))
        for count in ROW_COUNTS:
            np.testing.assert_array_equal(run(executor(isa), product(x, w), len(x), chunk=count), found)
    expected = run(ReferenceExecutor("float64", activations="bfloat16"), product(x, w), len(x))
    assert_close(found, expected, np.abs(x) @ np.abs(w.dequantize()).T, 2e-6)


@pytest.mark.parametrize("isa", ISAS)
def test_more_rows_than_one_expansion_serves(isa: str) -> None:
    x, w = rows_of(1100, 544), matrix(QuantType.Q8_0, 50, 544)
    found = run(executor(isa, threads=2), product(x, w), len(x))
    np.testing.assert_array_equal(found[::97], tile_product(x[::97], w.dequantize()))
    for chunk in (33, 1040):
        np.testing.assert_array_equal(run(executor(isa), product(x, w), len(x), chunk=chunk), found)


@pytest.mark.parametrize("isa", ISAS)
def test_denormal_numbers_are_zero(isa: str) -> None:
    """In activations, in weights, in products and in sums."""
    exponents = np.random.default_rng(0).integers(-149, -100, (2, 64, 64))
    x, w = (np.ldexp(rows_of(64, 64, seed=i), e).astype(np.float32) for i, e in enumerate(exponents))
    x[32:] *= 2.0**100  # products around the smallest normal number
    for chunk in (1, 40):
        found = run(executor(isa), product(x, from_array("w", w)), len(x), chunk)
        assert not found[:32].any()
        assert np.array_equal(found == 0, np.abs(found) < TINY)
        assert (found[32:] != 0).mean() > 0.3
        # Bochs flushes what rounds up to the smallest normal number, processors do not; tiles may: decision 9.
        if isa == "amx" or "PELLUCID_EMULATED" in os.environ:
            np.testing.assert_allclose(found, tile_product(x, w), rtol=0, atol=4 * TINY)
        elif isa != "portable":  # which rounds products that are too small
            np.testing.assert_array_equal(found, tile_product(x, w))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("damage", [np.nan, np.inf, -np.inf])
def test_damage_is_not_rounded_away(isa: str, damage: float) -> None:
    x, w = rows_of(6, 256), matrix(QuantType.Q4_K, 20, 256)
    sound = run(executor(isa), product(x, w), 6)
    x[4, 100] = damage
    found = run(executor(isa), product(x, w), 6)
    assert not np.isfinite(found[4]).any()
    np.testing.assert_array_equal(np.delete(found, 4, axis=0), np.delete(sound, 4, axis=0))


@pytest.mark.parametrize("isa", ISAS)
def test_everything_fused(isa: str) -> None:
    """Stacked matrices of all kinds, biases, a norm before and a residual after; odd numbers of panels."""
    width, sizes = 256, (17, 100, 32, 107)
    types = (QuantType.Q4_K, QuantType.F32, QuantType.Q8_0, QuantType.BF16)
    x = rows_of(21, width)
    stacked = [matrix(t, n, width, seed=n, name=f"w{n}") for t, n in zip(types, sizes, strict=True)]
    bias = [None, from_array("b", rows_of(1, 100)[0]), None, None]
    norm = Norm("rms", from_array("norm", np.ones(width, np.float32)), 1e-5, None, 0.0)
    graph = one_op(x, lambda g, v: g.linear(v, stacked, bias, norm=norm, residual=v))
    found, expected, plain = (
        run(e, graph, 21)
        for e in (executor(isa, 2), ReferenceExecutor("float64", activations="bfloat16"), CpuExecutor(isa=isa))
    )
    for chunk in (1, 5):
        np.testing.assert_array_equal(run(executor(isa), graph, 21, chunk), found)
    size = np.abs(expected).max(axis=1, keepdims=True)
    assert np.mean(np.abs(found - expected) / size) < 1e-5  # a norm's last bit may round an activation the other way
    assert np.mean(np.abs(found - plain) / size) > 5e-5  # what the profile itself changes


def test_rounding() -> None:
    x = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8, -1 - 2.0**-7, 2.0**-126, 2.0**-127, 3.4e38], np.float32)
    np.testing.assert_array_equal(round_to_bfloat16(x), [1, 1 + 2.0**-6, -1 - 2.0**-7, 2.0**-126, 0, np.inf])
    assert np.isnan(round_to_bfloat16(np.array([np.nan, np.inf], np.float32))).all()
