"""The CPU executor's own matters: settings, threads, the arena, closing, memory."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from support.graphs import VOCAB, gpt2_like, llama_like, random_ids
from support.steps import batched, full_forward, hidden_batch, make_batch, new_sequences

from pellucid.errors import ExecutorError, ResourceError
from pellucid.executors.cores import available_cores
from pellucid.executors.cpu import CpuExecutor, available_isas
from pellucid.executors.reference import ReferenceExecutor
from pellucid.graph.ir import Graph
from pellucid.graph.passes.fuse import fuse
from pellucid.graph.passes.hidden import HIDDEN, hidden
from pellucid.graph.passes.tap import tap

GRAPHS = {"llama": llama_like(), "llama interleaved": llama_like(interleaved=True), "gpt2": gpt2_like()}


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=list(GRAPHS))
def test_whole_graphs_agree_with_the_reference(graph: Graph, isa: str) -> None:
    ids = random_ids(75)
    expected = full_forward(ReferenceExecutor("float64").compile(graph, 16), ids)
    for variant in (graph, fuse(graph)):
        found = full_forward(CpuExecutor(threads=2, isa=isa).compile(variant, 16), ids)
        assert np.abs(found - expected).max() <= 1e-5 * np.ptp(expected)


def test_every_value_of_a_graph_can_be_tapped() -> None:
    """Tapped values have places of their own; the others share the arena, and none may overwrite a living one."""
    graph = llama_like()
    tapped = tap(graph, [node.name for node in graph])
    batch = make_batch([(new_sequences(8, [random_ids(20)])[0], 20)], num_groups=2)
    expected = ReferenceExecutor("float64").compile(tapped, 8).run(batch)
    found = CpuExecutor().compile(tapped, 8).run(batch)
    assert found.taps.keys() == expected.taps.keys() != set()
    for name, value in expected.taps.items():
        assert np.abs(found.taps[name] - value).max() <= 1e-5 * (1 + np.ptp(value)), name
    np.testing.assert_array_equal(CpuExecutor().compile(graph, 8).run(batch).logits, found.logits)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_threads_change_no_bit(threads: int) -> None:
    prompts = [random_ids(n, seed=n) for n in (1, 17, 40)]
    one = batched(CpuExecutor(threads=1).compile(llama_like(), 16), prompts, chunk=9)
    many = batched(CpuExecutor(threads=threads).compile(llama_like(), 16), prompts, chunk=9)
    for a, b in zip(one, many, strict=True):
        np.testing.assert_array_equal(a, b)


def test_programs_run_side_by_side() -> None:
    """No state is shared: four programs stepped from four Python threads at once give what each gives alone."""
    work = [(graph, random_ids(30, seed)) for seed, graph in enumerate([*GRAPHS.values(), llama_like()])]
    alone = [full_forward(CpuExecutor(threads=2).compile(graph, 8), ids) for graph, ids in work]
    together: list[list[np.ndarray]] = [[] for _ in work]

    def repeat(i: int) -> None:
        program = CpuExecutor(threads=2).compile(work[i][0], 8)
        together[i] = [full_forward(program, work[i][1]) for _ in range(20)]

    running = [threading.Thread(target=repeat, args=(i,)) for i in range(len(work))]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    for expected, found in zip(alone, together, strict=True):
        assert len(found) == 20
        for logits in found:
            np.testing.assert_array_equal(logits, expected)


def test_a_step_without_logits() -> None:
    [sequence] = new_sequences(4, [random_ids(12)])
    result = CpuExecutor().compile(llama_like(), 4).run(make_batch([(sequence, 12)], logit_rows=[], num_groups=2))
    assert result.logits.shape == (0, VOCAB)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("graph", [llama_like(), gpt2_like()], ids=["llama", "gpt2"])
def test_hidden_states_agree_with_the_reference(graph: Graph, isa: str) -> None:
    graph = fuse(hidden(graph))
    programs = [ReferenceExecutor("float64").compile(graph, 4), CpuExecutor(isa=isa).compile(graph, 4)]
    [sequence] = new_sequences(4, [random_ids(33)])
    num_groups = len(programs[0].info.kv_groups)
    for count, rows in [(20, [2, 19]), (2, []), (11, range(11))]:
        a, b = (program.run(hidden_batch([(sequence, count)], rows, num_groups=num_groups)) for program in programs)
        sequence.num_computed += count
        assert a.taps[HIDDEN].shape == b.taps[HIDDEN].shape == (len(rows), graph.outputs[HIDDEN].width)
        np.testing.assert_allclose(b.taps[HIDDEN], a.taps[HIDDEN], rtol=0, atol=2e-5)
        np.testing.assert_allclose(b.logits, a.logits, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threads": 0}, "threads is 0, expected 1 to"),
        ({"threads": 10**9}, "threads is 1000000000"),
        ({"isa": "mmx"}, "isa is 'mmx', but this machine and build offer portable"),
        (
            {"kv_cache_dtype": "int3"},
            "kv_cache_dtype is 'int3', expected one of auto, float32, float16, bfloat16, q8_0",
        ),
        ({"activations": "int4"}, "activations is 'int4', expected one of auto, int16, int8, bfloat16"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ExecutorError, match=message):
        CpuExecutor(**settings)  # type: ignore[arg-type]


def test_the_size_of_a_block_counts_what_is_allocated() -> None:
    """Values are padded to 16 columns: 2 layers and one with a window, 2 kv heads of 8 columns, float32."""
    layer = 16 * 2 * (8 + 16) * 4
    assert CpuExecutor().kv_block_nbytes(llama_like()) == [2 * layer, layer]
    for dtype in ("float16", "bfloat16"):
        assert CpuExecutor(kv_cache_dtype=dtype).kv_block_nbytes(llama_like()) == [layer, layer // 2]
    eighth = 16 * 2 * (8 + 16 + 4 + 4)  # each slot's codes, and a float32 scale for its key and its value
    assert CpuExecutor(kv_cache_dtype="q8_0").kv_block_nbytes(llama_like()) == [2 * eighth, eighth]


def test_a_cache_beyond_all_memory_is_refused() -> None:
    with pytest.raises(ResourceError, match="not enough memory for the weights and"):
        CpuExecutor().compile(llama_like(), 1 << 40)


def test_a_bad_batch_is_refused_before_anything_is_written() -> None:
    program = CpuExecutor().compile(llama_like(), 4)
    [sequence] = new_sequences(4, [[0, VOCAB]])
    with pytest.raises(ExecutorError, match=f"token_ids holds {VOCAB}"):
        program.run(make_batch([(sequence, 2)], num_groups=2))


def test_closing_frees_and_ends() -> None:
    program = CpuExecutor(threads=3).compile(llama_like(), 4)
    before = threading.active_count()
    program.close()
    program.close()
    assert threading.active_count() == before  # native threads are not Python's, and closing starts none
    with pytest.raises(ExecutorError, match="closed"):
        full_forward(program, [1])


def test_what_was_chosen_is_reported() -> None:
    program = CpuExecutor(threads=2).compile(llama_like(), 4)
    assert (program.info.executor, program.info.threads, program.info.isa) == ("cpu", 2, available_isas()[-1])
    assert program.info.kv_cache_dtype == "float32"  # all weights are
    assert program.info.weight_nbytes > 0
    assert CpuExecutor().threads == available_cores() >= 1


def in_a_child(code: str) -> str:
    """What a fresh Python prints that runs `code` after the imports it needs."""
    prologue = f"""
import os, resource, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from support.graphs import llama_like
from support.steps import full_forward
from pellucid.executors.cpu import CpuExecutor
"""
    command = [sys.executable, "-c", prologue + textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_threads_that_the_system_refuses_are_an_error() -> None:
    """Here the address space for a thousand stacks is missing; it must not end the process."""
    printed = in_a_child("""
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        try:
            CpuExecutor(threads=1000).compile(llama_like(), 4)
        except Exception as error:
            print(type(error).__name__, error)
    """)
    assert printed.startswith("ResourceError 1000 threads could not be started")


def test_a_forked_child_is_told_and_can_end() -> None:
    printed = in_a_child("""
        program = CpuExecutor(threads=2).compile(llama_like(), 4)
        if os.fork() == 0:
            try:
                full_forward(program, [1])
            except Exception as error:
                print(type(error).__name__, error, flush=True)
            program.close()
            sys.exit(0)
        assert os.wait()[1] == 0
    """)
    assert printed.startswith("ExecutorError this program's threads stayed in the process that was forked")
