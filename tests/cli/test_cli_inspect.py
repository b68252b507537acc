"""`pellucid inspect`, `list`, `pull` and `doctor`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.command import Pellucid
from support.fake_hub import FakeHub, running
from support.tiny_model import write_tiny_model

from pellucid.tools.doctor import measure_bandwidth
from pellucid.tools.inspect import abbreviate, inspect_model


def test_inspect_counts_bytes_and_weights(tiny: Path) -> None:
    found = inspect_model(tiny)
    [total] = found.types
    weights = 2 * 259 * 32 + 4 * 32 * 32 + 3 * 64 * 32 + 3 * 32
    assert (total.type, total.num_tensors, total.num_weights, total.nbytes) == ("F32", 12, weights, 4 * weights)
    assert found.weight_nbytes == 4 * weights
    assert found.kv_cache_dtype == "float32"  # as the weights are
    assert found.kv_token_nbytes == 2 * 32 * 4  # keys and values of one layer
    assert found.config is not None
    assert found.config.context_length == 256
    assert found.problem is None


def test_inspect_shows_what_a_person_asks_for(pellucid: Pellucid, tiny: Path) -> None:
    shown = pellucid("inspect", tiny).stdout
    for words in ("llama.context_length", "256", "F32", "KV cache", "259 in all", "'tiny'"):
        assert words in shown
    assert "blk.0.attn_q.weight" not in shown
    assert "blk.0.attn_q.weight" in pellucid("inspect", tiny, "--tensors").stdout


def test_inspect_dumps_the_graph_and_the_fused_one(pellucid: Pellucid, tiny: Path) -> None:
    plain = pellucid("inspect", tiny, "--graph").stdout
    fused = pellucid("inspect", tiny, "--graph", "--fused").stdout
    assert "rms_norm(" in plain
    assert "# layer 0" in plain
    assert "norm=rms" in fused
    assert len(fused.splitlines()) < len(plain.splitlines())


def test_fused_without_graph_is_wrong_use(pellucid: Pellucid, tiny: Path) -> None:
    done = pellucid("inspect", tiny, "--fused")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--graph" in done.stderr


def test_inspect_as_json_is_whole(pellucid: Pellucid, tiny: Path) -> None:
    found = json.loads(pellucid("inspect", tiny, "--json", "--graph").stdout)
    assert len(found["metadata"]["tokenizer.ggml.tokens"]) == 259
    assert len(found["metadata"]["tokenizer.ggml.token_type"]) == 259
    assert {t["name"] for t in found["tensors"]} >= {"output.weight", "token_embd.weight"}
    assert found["graph"][-1].startswith("return logits")


def test_metadata_cannot_drive_the_terminal_or_forge_lines(pellucid: Pellucid, tmp_path: Path) -> None:
    evil = write_tiny_model(
        tmp_path / "evil.gguf", **{"general.name": "\x1b[2J\x9bhi", "general.author\x1b[31m": "a\nb"}
    )
    for arguments in (["inspect", evil], ["inspect", evil, "--graph"]):
        shown = pellucid(*arguments).stdout
        assert shown.replace("\n", "").isprintable()


def test_a_model_that_cannot_run_is_still_shown(pellucid: Pellucid, tmp_path: Path) -> None:
    alien = write_tiny_model(tmp_path / "alien.gguf", **{"general.architecture": "alien"})
    done = pellucid("inspect", alien)
    assert done.returncode == 0
    assert "Pellucid cannot run this model: " in done.stdout
    assert "'alien'" in done.stdout
    assert pellucid("inspect", alien, "--graph").returncode == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, 2], "[1, 2]"),
        (list(range(20)), "[0, 1, 2, 3, 4, 5, 6, 7, … 20 in all]"),
        (np.arange(1000), "[0, 1, 2, 3, 4, 5, 6, 7, … 1,000 in all]"),
        (np.arange(3), "[0, 1, 2]"),
        ("short", "'short'"),
        ("x" * 100, "'" + "x" * 79 + "… 102 characters in all"),
        (1.5, "1.5"),
    ],
)
def test_abbreviations(value: object, expected: str) -> None:
    assert abbreviate(value) == expected


def test_pull_fetches_from_a_hub_and_list_and_run_find_it(pellucid: Pellucid, tiny: Path, tmp_path: Path) -> None:
    with running(FakeHub(repos={"org/tiny": {"tiny-Q4_K_M.gguf": tiny.read_bytes(), "tiny-Q8_0.gguf": b""}})) as hub:
        settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "COLUMNS": "300"}
        done = pellucid("pull", "org/tiny", **settings)
        assert done.returncode == 0, done.stderr
        assert "Fetching org/tiny" in done.stderr
        assert done.stdout.endswith("tiny-Q4_K_M.gguf\n")
    settings["HF_HUB_OFFLINE"] = "1"
    listed = pellucid("list", **settings).stdout
    assert "org/tiny" in listed
    assert done.stdout.strip() in listed
    assert "smollm2" in listed
    assert "not fetched yet" in listed
    assert pellucid("run", "org/tiny", "hi", "-n", "2", **settings).returncode == 0


def test_a_hub_that_says_no_is_a_clear_error(pellucid: Pellucid, tmp_path: Path) -> None:
    with running(FakeHub(repos={"org/gated": {"m.gguf": b"GGUF"}}, gated={"org/gated"})) as hub:
        settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf")}
        for model, words in (("org/gated", "org/gated is gated"), ("org/none", "knows no model 'org/none'")):
            done = pellucid("pull", model, **settings)
            assert done.returncode == 1
            assert words in done.stderr
            assert "Traceback" not in done.stderr


def test_doctor_measures_and_explains(pellucid: Pellucid) -> None:
    done = pellucid("doctor")
    assert done.returncode == 0, done.stderr
    for words in ("cores", "kernels", "portable", "GB/s with 1 thread", "GiB free of", "tokens/s from memory"):
        assert words in done.stdout


def test_bandwidth_is_of_this_world() -> None:
    found = measure_bandwidth(2, 32 << 20)
    assert found.nbytes == 32 << 20
    assert 1e8 < found.one_thread < 2e12
    assert 1e8 < found.all_threads < 4e12
