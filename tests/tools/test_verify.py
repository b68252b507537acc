"""`pellucid verify` finds nothing where nothing is wrong, and one wrong token in 10,000 where one is."""

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.command import COMMAND
from support.fake_model import ByteTokenizer
from support.invariance import quantised_graph
from support.sabotage import one_wrong_token
from support.tiny_model import write_tiny_model

from pellucid import LLM
from pellucid.engine.loader import LoadedModel
from pellucid.errors import InvalidParameter
from pellucid.executors import get_executor
from pellucid.executors.base import Batch, BlockCopy, StepResult
from pellucid.sampling import SamplingParams
from pellucid.tools.verify import first_receipt, read_results, verify_results, verify_workload
from pellucid.tools.verify_workload import sampler_settings


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture
def llm(path: Path) -> Iterator[LLM]:
    with LLM(str(path), threads=1, max_num_seqs=2, max_model_len=192) as llm:
        yield llm


class Faulty:
    """A program that is wrong about row `at` of all it computes while several sequences share a step."""

    def __init__(self, program: Any, at: int, fault: Callable[[np.ndarray], None]) -> None:
        self._program, self._at, self._fault, self._rows = program, at, fault, 0
        self.info = program.info

    def run(self, batch: Batch) -> StepResult:
        result: StepResult = self._program.run(batch)
        if len(batch.seq_lens) > 1:
            rows = len(result.logits)
            if self._rows <= self._at < self._rows + rows:
                self._fault(result.logits[self._at - self._rows])
            self._rows += rows
        return result

    def copy_blocks(self, copies: Sequence[BlockCopy]) -> None:
        self._program.copy_blocks(copies)

    def close(self) -> None:
        self._program.close()


def one_bit(logits: np.ndarray) -> None:
    logits[:] = np.nextafter(logits, np.float32(np.inf))


def test_a_sound_engine_has_no_differences(llm: LLM) -> None:
    report = verify_workload(llm._model, count=60)
    assert report.differences == []
    assert report.num_requests == 60
    assert report.num_answers > 70
    assert report.num_preemptions > 10, "the cache was too small for what ran"
    assert report.num_cancelled > 3
    assert report.num_logprobs > 1_000
    assert report.num_cached_tokens > 1_000
    assert report.num_right_drafts > 5
    assert report.num_wrong_drafts > 50
    assert verify_workload(llm._model, count=30, sample=5, seed=1).num_requests == 5


def test_windows_change_nothing() -> None:
    """Two layers, one of which sees 20 tokens, on the CPU executor; its group has fewer blocks."""
    program = get_executor("cpu").compile(quantised_graph(), [24, 18])
    config = SimpleNamespace(vocab_size=260)
    model = LoadedModel(Path("two-layers"), config, program, ByteTokenizer(), 192, None)  # type: ignore[arg-type]
    report = verify_workload(model, count=54)
    program.close()
    assert report.differences == []
    assert report.num_preemptions > 10
    assert report.num_right_drafts > 50


def test_one_wrong_token_is_found(llm: LLM) -> None:
    """One in 2,000; `make proof` has one in 10,000."""
    with one_wrong_token(700):
        report = verify_workload(llm._model, count=70)
    assert report.num_tokens > 1_500
    assert len(report.differences) == 1


def test_one_wrong_bit_is_found(llm: LLM) -> None:
    """Nothing but the last bit of the logits of one row: the token is the same, its log-probability is not."""
    models = [replace(llm._model, program=Faulty(llm._model.program, at, one_bit)) for at in range(40, 80, 10)]
    reports = [verify_workload(model, count=8) for model in models]
    assert sum(len(report.differences) for report in reports) >= 2


def test_every_sampler_is_in_the_workload() -> None:
    """A new parameter that has a say in which token comes next must be added to it."""
    used = {name for settings in sampler_settings(300) for name in settings}
    given_to_all = {"seed", "n", "max_tokens", "ignore_eos", "logprobs", "prompt_logprobs"}
    of_the_text_alone = {"skip_special_tokens", "include_stop_str_in_output", "visible_token_ids", "echo"}
    defaults = {"xtc_threshold", "mirostat_tau", "mirostat_eta"}
    assert {f.name for f in fields(SamplingParams)} - used - defaults == given_to_all | of_the_text_alone


@pytest.fixture
def results(path: Path, tmp_path: Path) -> Path:
    """What `pellucid batch --receipts` writes."""
    lines = [
        {"custom_id": f"r{i}", "method": "POST", "url": "/v1/completions",
         "body": {"prompt": [f"prompt {i}", "other"], "n": 2, "max_tokens": 5, "logprobs": 2, "logit_bias": {"3": 1}}}
        for i in range(4)
    ]  # fmt: skip
    lines.append({"custom_id": "bad", "method": "POST", "url": "/v1/completions", "body": {}})
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "out.jsonl"
    command = ["batch", str(tmp_path / "in.jsonl"), str(out), "-m", str(path), "-q", "--receipts", "-c", "64"]
    assert subprocess.run([*COMMAND, *command], capture_output=True, timeout=60).returncode == 1
    return out


def verify(*arguments: str | Path) -> tuple[int, str]:
    done = subprocess.run([*COMMAND, "verify", *map(str, arguments)], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_results_of_a_batch(path: Path, results: Path) -> None:
    assert verify(path, "--results", results) == (
        0,
        "8 requests replayed: 16 answers, 80 tokens, " + verify(path, "--results", results)[1].split("tokens, ")[1],
    )
    text = results.read_text()
    recorded = json.loads(text.splitlines()[0])["response"]["body"]["pellucid"][0]["outputs"][0]
    token = recorded["token_ids"][2]
    results.write_text(text.replace(f"[{recorded['token_ids'][0]},{recorded['token_ids'][1]},{token},", "[1,2,3,", 1))
    code, said = verify(path, "--results", results)
    assert code == 1
    assert "r0[0], answer 0: token 0 was 1, cold it is" in said
    logprob = repr(next(iter(recorded["logprobs"][0].values()))["logprob"])
    results.write_text(text.replace(logprob, repr(np.nextafter(float(logprob), 0).item())))
    code, said = verify(path, "--results", results)
    assert code == 1
    assert f"was {np.nextafter(float(logprob), 0).item()!r} (rank" in said


def test_the_result_of_a_run(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    with file.open("w") as out:
        command = [*COMMAND, "run", str(path), "Hello", "-n", "9", "--json", "-q", "-c", "64"]
        subprocess.run(
            [*command, "--kv-cache-dtype", "q8_0", "--activations", "int8"], stdout=out, check=True, timeout=60
        )
    made_with = first_receipt(file)
    assert (made_with["kv_cache_dtype"], made_with["activations"]) == ("q8_0", "int8")
    code, said = verify(path, "--results", file)
    assert (code, said.split(";")[0]) == (0, "1 requests replayed: 1 answers, 9 tokens, 0 logprobs")
    code, said = verify(path, "--results", file, "--kv-cache-dtype", "bfloat16")
    assert code == 1
    assert "cannot be compared: kv_cache_dtype was 'q8_0' (str), here 'bfloat16' (str)" in said
    code, said = verify(path, "--results", file, "--activations", "int16")
    assert code == 1
    assert "cannot be compared: activations was 'int8' (str), here 'int16' (str)" in said


def test_results_of_another_engine_are_not_compared(llm: LLM, results: Path) -> None:
    assert first_receipt(results)["max_model_len"] == 64
    report = verify_results(llm._model, read_results(results))
    assert report.num_requests == 0
    assert len(report.differences) == 8
    assert "cannot be compared: max_model_len was 64 (int), here 192" in report.differences[0]


@pytest.mark.parametrize("text", ["[1]", "{}", '{"receipt": 5}', '{"receipt": {}, "outputs": []}', "x"])
def test_files_that_are_no_results(tmp_path: Path, text: str) -> None:
    file = tmp_path / "results.jsonl"
    file.write_text(text + "\n")
    with pytest.raises(InvalidParameter, match="results"):
        list(read_results(file))
    with pytest.raises(InvalidParameter, match="cannot be read"):
        list(read_results(tmp_path / "none"))


def test_wrong_use(path: Path, results: Path) -> None:
    assert verify(path, "--results", results, "--requests", "5")[0] == 2
    assert verify(path, "--requests", "0")[0] == 2
    code, said = verify(path, "--requests", "8", "--seed", "0")
    assert (code, said.split(" (")[0]) == (0, "8 requests replayed")
