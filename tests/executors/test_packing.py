"""Packing weights: what is not finite is found as formats/finite.py finds it, and progress is told and may stop it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.blocks import F16_FIELDS, random_blocks
from support.graphs import llama_like, random_ids
from support.steps import full_forward

from pellucid.errors import FormatError, PellucidError
from pellucid.executors import cpu
from pellucid.executors.cpu import CpuExecutor, available_isas
from pellucid.executors.reference import ReferenceExecutor
from pellucid.formats.finite import check_finite
from pellucid.formats.mapped import map_file
from pellucid.formats.qtensor import QTensor
from pellucid.formats.quant import QuantType
from pellucid.graph.builder import GraphBuilder
from pellucid.graph.ir import Graph

SMAPS = Path("/proc/self/smaps")
OUTPUTS, INPUTS = 37, 256  # two panels of 16 outputs and a part of one


def graph_of(weight: QTensor) -> Graph:
    g = GraphBuilder()
    embedding = QTensor("embedding", QuantType.F32, (OUTPUTS, INPUTS), np.zeros(OUTPUTS * INPUTS * 4, np.uint8))
    return g.finish(g.linear(g.select(g.embed(embedding)), weight, name="logits"))


def damaged(type: QuantType, at: int, block: int, bits: int, size: int) -> QTensor:
    blocks = random_blocks(type, OUTPUTS * INPUTS // type.block_size)
    blocks[block, at : at + size] = np.frombuffer(bits.to_bytes(size, "little"), np.uint8)
    return QTensor("w", type, (OUTPUTS, INPUTS), blocks.reshape(-1))


HALF = [
    (type, at, 2, (0x7C00, 0xFC00, 0x7E01), (0x7BFF, 0xFBFF)) for type, offsets in F16_FIELDS.items() for at in offsets
]
FIELDS = [
    *HALF,
    (QuantType.F32, 0, 4, (0x7F800000, 0xFF800000, 0x7FC00001), (0x7F7FFFFF,)),
    (QuantType.BF16, 0, 2, (0x7F80, 0xFFC0), (0x7F7F,)),
    (QuantType.MXFP4, 0, 1, (253, 255), (252,)),
]


EXECUTORS = [*(CpuExecutor(threads=2, isa=isa) for isa in available_isas()), ReferenceExecutor()]


@pytest.mark.parametrize("executor", EXECUTORS, ids=lambda e: getattr(e, "isa", e.name))
@pytest.mark.parametrize(("type", "at", "size", "bad", "good"), FIELDS, ids=lambda value: getattr(value, "name", None))
def test_weights_that_are_not_finite_are_refused(executor, type, at, size, bad, good) -> None:
    last = OUTPUTS * INPUTS // type.block_size - 1
    for bits, block in [(bits, block) for bits in bad for block in (0, 17 * (last + 1) // OUTPUTS + 1, last)]:
        tensor = damaged(type, at, block, bits, size)
        with pytest.raises(FormatError) as expected:
            check_finite(tensor)
        with pytest.raises(FormatError) as found:
            executor.compile(graph_of(tensor), 1)
        assert str(found.value) == str(expected.value)
        assert f"block {block} of" in str(found.value)
    for bits in good:
        executor.compile(graph_of(damaged(type, at, last, bits, size)), 1).close()


def test_the_first_of_several_bad_blocks_is_named() -> None:
    tensor = damaged(QuantType.Q8_0, 0, 290, 0x7C00, 2)
    data = tensor.data.reshape(-1, 34)
    data[[17, 250], :2] = 0x7E
    with pytest.raises(FormatError, match="block 17 of 296"):
        CpuExecutor(threads=4).compile(graph_of(tensor), 1)


def test_rows_packed_in_parts_are_those_packed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, graph = random_ids(12), llama_like()
    whole = full_forward(CpuExecutor(threads=2).compile(graph, 2), ids)
    tensor = damaged(QuantType.Q8_0, 0, 290, 0x7C00, 2)
    monkeypatch.setattr(cpu, "_PART_NBYTES", 1)
    np.testing.assert_array_equal(full_forward(CpuExecutor(threads=2).compile(graph, 2), ids), whole)
    with pytest.raises(FormatError, match="'w' holds NaN or infinity in its Q8_0 block 290 of 296"):
        CpuExecutor(threads=2).compile(graph_of(tensor), 1)


@pytest.mark.skipif(not SMAPS.exists(), reason="reads /proc/self/smaps, which only Linux has")
def test_a_mapped_files_pages_are_given_back_and_other_memory_is_left_alone(tmp_path: Path) -> None:
    outputs = 32 * 1024
    stored = random_blocks(QuantType.Q8_0, outputs * INPUTS // 32).reshape(-1)
    path = tmp_path / "weights"
    path.write_bytes(bytes(50) + stored.tobytes())
    mapped = np.frombuffer(map_file(path), np.uint8)[50:]
    for data in (stored.copy(), mapped):
        CpuExecutor(threads=2).compile(graph_of(QTensor("w", QuantType.Q8_0, (outputs, INPUTS), data)), 1).close()
        if data is mapped:
            assert resident(path) < stored.nbytes // 8
        np.testing.assert_array_equal(data, stored)
    assert resident(path) > stored.nbytes // 2  # the comparison has read them again


def resident(path: Path) -> int:
    """Bytes of `path`'s mapping that are in memory."""
    found, inside = 0, False
    for line in SMAPS.read_text().splitlines():
        if "-" in line.split(" ")[0]:
            inside = line.endswith(path.name)
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found << 10


def test_progress_is_told_and_may_stop_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_PART_NBYTES", 1)  # every panel is a part
    monkeypatch.setattr(cpu, "_CALL_NBYTES", 1)
    seen: list[tuple[int, int]] = []
    CpuExecutor(threads=1).compile(llama_like(), 1, lambda ready, total: seen.append((ready, total))).close()
    assert len(seen) > 3
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] == seen[0][1]

    def stop(ready: int, total: int) -> None:
        raise PellucidError("enough")

    with pytest.raises(PellucidError, match="enough"):
        CpuExecutor(threads=1).compile(llama_like(), 1, stop)
