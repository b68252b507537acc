"""Rotary position embedding tables (Su et al. 2021, arXiv:2104.09864), with the scalings that lengthen a context.

A table is made once per model, at build time, in float64: D_rot/2 inverse frequencies and one factor for cos and sin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid.errors import FormatError, UnsupportedModel
from pellucid.formats.qtensor import QTensor
from pellucid.graph.weights import Weights, from_array
from pellucid.models.reader import ConfigReader

GGUF_SCALINGS = ("none", "linear", "longrope")
HF_SCALINGS = ("default", "linear", "llama3", "longrope")
MIN_FACTOR = 1e-3
Frequencies = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rope:
    """`inv_freq` [D_rot/2] F32: radians a position; `scale` multiplies cos and sin."""

    inv_freq: QTensor
    scale: float = 1.0


@dataclass(frozen=True)
class Lengths:
    """`context` is what the model was made for, `wanted` what it will be run with (both in tokens)."""

    context: int
    wanted: int


def inverse_frequencies(theta: float, dims: int) -> Frequencies:
    """theta^(-2i/dims) for i in [0, dims/2)."""
    return np.asarray(theta ** (-np.arange(0, dims, 2, dtype=np.float64) / dims))


def llama3_scaled(inv_freq: Frequencies, factor: float, low: float, high: float, original: int) -> Frequencies:
    """Llama 3.1: wavelengths above original/low are stretched by `factor`, those below original/high are kept, and what
    lies between is blended linearly in original/wavelength."""
    wavelength = 2 * math.pi / inv_freq
    blend = np.clip((original / wavelength - low) / (high - low), 0.0, 1.0)
    return np.asarray((1 - blend) * inv_freq / factor + blend * inv_freq)


def longrope_scale(factor: float, original: int) -> float:
    """sqrt(1 + ln(factor) / ln(original)), or 1 if nothing is lengthened (Ding et al. 2024, arXiv:2402.13753)."""
    return 1.0 if factor <= 1.0 else math.sqrt(1 + math.log(factor) / math.log(original))


def rope_from_gguf(
    reader: ConfigReader, weights: Weights, head_size: int, lengths: Lengths, *, name: str = "rope"
) -> Rope:
    """From `rope.*` keys and the tensors rope_freqs (Llama 3.1) or rope_factors_long and _short (longrope)."""
    theta = reader.number("rope_theta", 10000.0, minimum=1.0)
    dims = reader.integer("rotary_dims", head_size, minimum=2, maximum=head_size)
    if dims % 2:
        raise reader.wrong("rotary_dims", dims, "an even number")
    inv_freq = inverse_frequencies(theta, dims)
    kind = reader.choice("rope_scaling_type", "linear", GGUF_SCALINGS)
    factor = reader.number("rope_scaling_factor", reader.number("rope_scale_linear", 1.0), maximum=1e6)
    original = reader.integer("rope_original_length", lengths.context)
    scale = reader.number("rope_attention_factor", 1.0, maximum=1e3)
    if kind == "linear" and factor != 0:  # 0 is how older files write "not set"
        if factor < MIN_FACTOR:
            raise reader.wrong("rope_scaling_factor", factor, f"at least {MIN_FACTOR:g}")
        inv_freq = inv_freq / factor
    divisor = "rope_freqs"
    if weights.has("rope_factors_long.weight"):
        divisor, other = ("rope_factors_long", "rope_factors_short")
        if lengths.wanted <= original:
            divisor, other = other, divisor
        weights.ignore(f"{other}.weight")
    elif kind == "longrope":
        raise reader.wrong("rope_scaling_type", kind, "a tensor rope_factors_long.weight with it")
    divisors = weights.optional(f"{divisor}.weight", (dims // 2,))
    if divisors is not None:
        inv_freq = _divided(inv_freq, divisors.dequantize().astype(np.float64), f"tensor {divisors.name}")
    return Rope(from_array(f"{name}.inv_freq", inv_freq), scale)


def rope_from_hf(
    reader: ConfigReader, head_size: int, lengths: Lengths, *, theta: float = 10000.0, name: str = "rope"
) -> Rope:
    """From config.json: `rope_theta` and `rope_scaling`, or `rope_parameters`, which holds both."""
    theta = reader.number("rope_theta", theta, minimum=1.0)
    rotary = reader.number("partial_rotary_factor", 1.0, maximum=1.0)
    old, new = reader.section("rope_scaling"), reader.section("rope_parameters")
    if old is not None and new is not None:
        raise UnsupportedModel("config.json: rope_scaling and rope_parameters are both given, expected one of them")
    original = reader.integer("original_max_position_embeddings", lengths.context)
    section = old or new or ConfigReader({}, "config.json: rope_parameters")
    return rope_from_section(section, head_size, lengths, theta=theta, rotary=rotary, original=original, name=name)


def rope_from_section(
    section: ConfigReader,
    head_size: int,
    lengths: Lengths,
    *,
    theta: float,
    rotary: float = 1.0,
    original: int | None = None,
    name: str = "rope",
) -> Rope:
    """One `rope_scaling` or `rope_parameters` object; the keywords are what stands outside of it."""
    theta = section.number("rope_theta", theta, minimum=1.0)
    rotary = section.number("partial_rotary_factor", rotary, maximum=1.0)
    dims = int(head_size * rotary)
    if dims < 2 or dims % 2:
        raise section.wrong("partial_rotary_factor", rotary, f"to leave an even share of {head_size} dimensions")
    inv_freq = inverse_frequencies(theta, dims)
    scale = 1.0
    kind = section.choice("type", "default", (*HF_SCALINGS, "su"))  # longrope was called so at first
    kind = section.choice("rope_type", kind, (*HF_SCALINGS, "su"))
    if kind == "linear":
        inv_freq = inv_freq / section.number("factor", minimum=MIN_FACTOR, maximum=1e6)
    elif kind == "llama3":
        low, high = (
            section.number("low_freq_factor", minimum=MIN_FACTOR),
            section.number("high_freq_factor", minimum=MIN_FACTOR),
        )
        if low >= high:
            raise FormatError(
                f"rope scaling: low_freq_factor is {low:g}, expected less than high_freq_factor, {high:g}"
            )
        factor = section.number("factor", minimum=MIN_FACTOR, maximum=1e6)
        original = section.integer("original_max_position_embeddings", original or lengths.context)
        inv_freq = llama3_scaled(inv_freq, factor, low, high, original)
    elif kind in ("longrope", "su"):
        original = section.integer("original_max_position_embeddings", original or lengths.context, minimum=2)
        sets = {key: section.numbers(f"{key}_factor", dims // 2) for key in ("short", "long")}
        divisors = np.array(sets["long" if lengths.wanted > original else "short"])
        inv_freq = _divided(inv_freq, divisors, "rope short_factor or long_factor")
        factor = section.number("factor", lengths.context / original, maximum=1e6)
        scale = section.number("attention_factor", longrope_scale(factor, original), maximum=1e3)
    section.finish()
    return Rope(from_array(f"{name}.inv_freq", inv_freq), scale)


def _divided(inv_freq: Frequencies, divisors: Frequencies, what: str) -> Frequencies:
    if not ((divisors >= MIN_FACTOR) & (divisors <= 1e6)).all():
        raise FormatError(f"{what} holds a value outside {MIN_FACTOR:g} to 1e+06, the range of a rope factor")
    return inv_freq / divisors
