"""Instruction sets: which ones are found, and that the wide ones give the bits of AVX2.

They are the same kernels on longer registers, with other ways to the same integers; and tiles. To compare them takes a
machine with more than AVX2, real or made by `make emulated-isas`; elsewhere these tests have no cases.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from support.one_op import matrix, one_op, rows_of, run
from test_op_table import row_ops

from pellucid.executors.cpu import ACTIVATIONS, KV_KINDS, CpuExecutor, available_isas
from pellucid.formats.quant import QuantType
from pellucid.graph.builder import GraphBuilder, Value
from pellucid.graph.ir import Graph

FLAGS = {  # what Linux calls the features that each one needs
    "avx2": {"avx2", "fma", "f16c"},
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "avx512vnni": {"avx512_vnni"},
    "amx": {"amx_tile", "amx_bf16"},
}
WIDE = [isa for isa in available_isas() if isa not in ("portable", "avx2")]


def test_what_the_machine_has_is_detected() -> None:
    cpu = Path("/proc/cpuinfo")
    flags = re.search(r"^flags\s*:(.*)", cpu.read_text(), re.MULTILINE) if cpu.is_file() else None
    if flags is None:
        pytest.skip("only Linux on x86-64 says which features the CPU has")
    expected, needed = ["portable"], set()
    for isa, features in FLAGS.items():
        needed |= features
        if needed <= set(flags[1].split()):
            expected.append(isa)
    assert [isa for isa in available_isas() if isa in ("portable", *FLAGS)] == expected


def assert_the_bits_of_avx2(isa: str, graph: Graph, count: int, **settings: str) -> None:
    expected, found = (run(CpuExecutor(threads=1, isa=i, **settings), graph, count) for i in ("avx2", isa))
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("isa", WIDE)
@pytest.mark.parametrize("activations", ACTIVATIONS[1:])
@pytest.mark.parametrize("type", list(QuantType), ids=lambda t: t.name)
def test_linear_agrees(isa: str, type: QuantType, activations: str) -> None:
    inputs = 3 * max(type.block_size, 32)
    w = matrix(type, 40, inputs)
    for count in (1, 29):
        graph = one_op(rows_of(count, inputs), lambda g, v: g.linear(v, w))
        assert_the_bits_of_avx2(isa, graph, count, activations=activations)


@pytest.mark.parametrize("isa", WIDE)
@pytest.mark.parametrize("width", [1, 17, 96])
def test_row_operators_agree(isa: str, width: int) -> None:
    for build in row_ops(width).values():
        assert_the_bits_of_avx2(isa, one_op(4 * rows_of(5, width), build), 5)


@pytest.mark.parametrize("isa", WIDE)
@pytest.mark.parametrize("kv_cache_dtype", KV_KINDS)
@pytest.mark.parametrize("head_size", [20, 64])
def test_attention_agrees(isa: str, kv_cache_dtype: str, head_size: int) -> None:
    def build(g: GraphBuilder, v: Value) -> Value:
        q, k, value = (g.slice(v, at * head_size, n * head_size) for at, n in ((0, 2), (2, 1), (3, 1)))
        shape = {"num_heads": 2, "num_kv_heads": 1, "head_size": head_size}
        return g.attention(q, k, value, **shape, scale=head_size**-0.5)

    graph = one_op(2 * rows_of(90, 4 * head_size), build)
    assert_the_bits_of_avx2(isa, graph, 90, kv_cache_dtype=kv_cache_dtype)
