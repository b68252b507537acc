"""`pellucid bench` on the tiny model: every work runs, counts what it should, and is told in table and JSON."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support.command import COMMAND
from support.graphs import llama_like
from support.tiny_model import write_tiny_model

from pellucid.errors import InvalidParameter
from pellucid.executors import limits
from pellucid.executors.base import Batch, StepResult
from pellucid.executors.cpu import CpuExecutor, available_isas
from pellucid.tools import bench_report
from pellucid.tools.bench import BenchOptions, bench
from pellucid.tools.bench_profile import PARTS, profile_of
from pellucid.tools.bench_steps import CHUNK, StepTimer, work_of

SMALL = {"prefill": (40,), "decode": 4, "streams": (1, 3), "repeats": 1, "threads": 1}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "READ_NBYTES", 1 << 20)


def test_every_work_is_measured(tiny: Path) -> None:
    told: list[str] = []
    result = bench(str(tiny), BenchOptions(**SMALL, context=(50, 64)), told.append)  # type: ignore[arg-type]
    works = ["prefill_40", "decode_1", "streams_1", "streams_3", "prefill_64", "decode_1_at_50", "decode_1_at_64"]
    works += ["llm_decode", "mixed"]
    assert set(result["samples"]) == {"load", *works, "prefill_50", "first_token", "exit", "peak_mib"}
    assert all(len(found) == 1 and found[0] > 0 for found in result["samples"].values())
    assert result["samples"]["first_token"] <= result["samples"]["exit"]
    assert set(works) - {"load"} <= {what.replace(" ", "_") for what in told}
    assert len(result["limits"]) == 2
    assert [row.work for row in bench_report.rows(result)][:2] == ["load", "prefill, 40 tokens"]
    json.dumps(result)
    assert list(result["profile"]) == ["prefill_40", "decode_1", "streams_3"]


def test_only_what_was_asked_for(tiny: Path) -> None:
    result = bench(str(tiny), BenchOptions(**SMALL, only=("decode",)))  # type: ignore[arg-type]
    assert list(result["samples"]) == ["load", "decode_1"]
    assert result["profile"] == {}


def test_shares_of_a_step_are_of_its_parts() -> None:
    program = CpuExecutor(threads=2).compile(llama_like(), 160)
    assert program.profile() == []
    timer = StepTimer(program, 16, stream_length=32)
    timer.prefill(40)
    assert program.profile() == [], "nothing is timed before it is asked for"
    for work in (lambda: timer.prefill(600), lambda: timer.chunk(512, 64), lambda: timer.decode(3, 16, 4)):
        found = profile_of(program, work)
        assert set(found) == {"step", *PARTS}
        assert sum(found[part] for part in PARTS) == pytest.approx(1)
        assert found["multiply"] > 0
        assert found["attention"] > 0
    ops = [node.op for node, _ in program.profile()]
    assert ops.count("linear") == 2 * sum(node.op == "linear" for node in llama_like()), "inputs, then matrices"
    program.close()


def test_a_profile_is_told_as_shares() -> None:
    shares = {"multiply": 0.5, "inputs": 0.125, "logits": 0.125, "attention": 0.25, "rest": 0.0, "outside": 0.0}
    [head, row] = bench_report.profile_table({"prefill_512_at_8192": {"step": 0.25, **shares}})
    assert dict(zip(head, row, strict=True))["attention"] == "25%"
    assert row[:2] == ["prefill, the last 512 of 8,192 tokens", "250 ms"]


def test_memory_is_told_beside_its_goal() -> None:
    program = {"kv": [[0, 1024], [64, 1024]], "context_length": 4096, "flops_per_token": 1, "flops_per_logit_row": 1}
    goal = 1.15 * 100 + 2 * 512 * 1024 / 2**20 + 90
    assert bench_report.memory_goal(program, 100 << 20) == pytest.approx(goal)
    limits = [{"read_all": 1e9, "integer_all": 1e9, "float_all": 1e9}]
    row = bench_report.row("peak_mib", goal / 2, program, limits, 100 << 20)
    assert row.of_limit == "50% of 1.15 × file + KV + 90 MiB"


def test_the_command_prints_a_table_and_writes_json(tiny: Path, tmp_path: Path) -> None:
    arguments = ["--prefill", "20,30", "--streams", "2", "--decode", "4", "--repeats", "2", "--only", "prefill,streams"]
    out = tmp_path / "result.json"
    done = subprocess.run(
        [*COMMAND, "bench", str(tiny), *arguments, "--kv-cache-dtype", "q8_0", "--activations", "int8",
         "--json", str(out)],
        capture_output=True, encoding="utf-8", timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "prefill, 30 tokens" in done.stdout
    assert "GB/s" in done.stdout
    assert "limits: read" in done.stdout
    result = json.loads(out.read_text())
    assert {key: len(found) for key, found in result["samples"].items() if key != "load"} == {
        "prefill_20": 2, "prefill_30": 2, "streams_2": 2,
    }  # fmt: skip
    assert {"date", "commit", "machine", "limits", "program"} <= set(result)
    assert result["program"]["kv_cache_dtype"] == "q8_0"
    assert result["program"]["activations"] == "int8"
    assert "activations in int8, KV in q8_0" in done.stdout


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"streams": (0,)}, "numbers from 1 up"),
        ({"prefill": ()}, "numbers from 1 up"),
        ({"only": ("prefil",)}, "no work 'prefil'"),
        ({"context": (64, 32)}, "more than 32"),
        ({"repeats": 0}, "start at 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        BenchOptions(**given)  # type: ignore[arg-type]


def test_a_context_beyond_the_models_is_refused(tiny: Path) -> None:
    with pytest.raises(InvalidParameter, match="exceed the model's context"):
        bench(str(tiny), BenchOptions(**SMALL, context=(10**6,), only=("context",)))  # type: ignore[arg-type]


def test_steps_are_what_their_names_say(monkeypatch: pytest.MonkeyPatch) -> None:
    program = CpuExecutor(threads=1).compile(llama_like(), 80)
    ran: list[Batch] = []

    def run(batch: Batch) -> StepResult:
        batch.check(program.info.kv_groups, 10**6)
        ran.append(batch)
        return StepResult(np.empty((0, 0), np.float32))

    monkeypatch.setattr(program, "run", run)
    timer = StepTimer(program, 16, stream_length=32)
    timer.prefill(CHUNK + 100)
    assert [len(batch.token_ids) for batch in ran] == [CHUNK, 100]
    assert [batch.logit_rows.tolist() for batch in ran] == [[], [99]]
    ran.clear()
    steps = timer.prefill(2 * CHUNK)
    assert steps.rate == pytest.approx(2 * CHUNK / sum(steps.seconds))
    assert steps.until(CHUNK).seconds == steps.seconds[:1]
    assert steps.until(CHUNK + 1) == steps
    ran.clear()
    timer.chunk(100, 20)
    assert (ran[0].positions[0], ran[0].seq_lens.tolist(), len(ran[0].logit_rows)) == (100, [120], 0)
    ran.clear()
    timer.prefill(16, num_streams=40)
    assert [len(batch.seq_lens) for batch in ran] == [32, 8]
    tables = np.concatenate([batch.block_tables[0] for batch in ran])
    ran.clear()
    timer.decode(40, 16, 2)
    assert [batch.seq_lens.tolist() for batch in ran] == [[17] * 40, [18] * 40]
    np.testing.assert_array_equal(ran[0].block_tables[0][:, :1], tables)
    program.close()


def test_the_work_of_a_step() -> None:
    graph = llama_like()
    work = work_of(graph, [16 * 100, 16 * 10])
    matrices = {m.name: m for node in graph if node.op == "linear" for m in node.matrices()}
    assert work.weight_nbytes == sum(m.nbytes for m in matrices.values())
    total = sum(2 * m.shape[0] * m.shape[1] for m in matrices.values())
    assert work.flops_per_token + work.flops_per_logit_row == total
    assert work.kv_nbytes(10) == 10 * 100 + 7 * 10  # the second group has a window of 7


def test_rates_in_physical_units() -> None:
    program = {
        "weight_nbytes": 10**8,
        "flops_per_token": 10**8,
        "flops_per_logit_row": 10**8,
        "kv": [[0, 100], [8, 1000]],
    }
    assert bench_report.rates(program, "decode_1", 50) == (5e9, 0)
    assert bench_report.rates(program, "decode_1_at_1000", 10) == (10 * (10**8 + 100_000 + 8_000), 0)
    assert bench_report.rates(program, "streams_8", 80) == (1e9, 16e9)  # ten steps a second
    assert bench_report.rates(program, "prefill_100", 1000) == (0, 1000 * (10**8 + 10**6))
    assert bench_report.rates(program, "mixed", 1000) == (0, 0)


@pytest.mark.parametrize("isa", available_isas())
def test_limits_are_of_this_world(isa: str) -> None:
    found = limits.measure_limits(2, isa)
    for read in (found.read_one, found.read_all):
        assert 1e8 < read < 1e13
    for operations in (found.float_one, found.float_all, found.integer_one, found.integer_all):
        assert 1e8 < operations < 1e14
