"""docs/operations.md is true: its sizes are the executor's, its metrics are there, its numbers are the defaults."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from support.http_client import Http
from support.scripted_client import ScriptedClient

from pellucid.engine.kv_budget import DEFAULT_KV_CACHE_MEMORY
from pellucid.executors.base import BLOCK_SIZE
from pellucid.executors.cpu import CpuExecutor
from pellucid.executors.kv_cache import kv_layers
from pellucid.formats.checkpoint import open_checkpoint
from pellucid.models.registry import build_model
from pellucid.server.response_store import MAX_NBYTES
from pellucid.server.settings import Limits

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_sizing_docs", ROOT / "scripts" / "make_sizing_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_current(script: ModuleType) -> None:
    assert script.render() == PAGE, "docs/operations.md is out of date; run `make docs`"


@pytest.mark.parametrize(("fixture", "name"), [("smollm2_path", "SmolLM2 135M"), ("gemma3_path", "Gemma 3 270M")])
def test_the_sizes_are_the_executor_s(
    fixture: str, name: str, script: ModuleType, request: pytest.FixtureRequest
) -> None:
    (shape,) = (shape for shape in script.SHAPES if shape.name == name)
    with open_checkpoint(request.getfixturevalue(fixture)) as checkpoint:
        _, graph = build_model(checkpoint)
        for dtype in script.VALUE_NBYTES:
            nbytes = sum(CpuExecutor(kv_cache_dtype=dtype).kv_block_nbytes(graph))
            assert nbytes / BLOCK_SIZE == shape.token_nbytes(dtype)
        windows = [layer.window for layer in kv_layers(graph) if layer.window]
    assert (len(windows), set(windows) or {0}) == (shape.windowed, {shape.window})


def test_the_metrics_are_there() -> None:
    with Http(ScriptedClient()) as http:
        http.chat()
        told = set(re.findall(r"^(pellucid_\w+)", http.get("/metrics").text, re.MULTILINE))
    (rules,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    alerts = [rule for group in yaml.safe_load(rules)["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in alerts}) == len(alerts) == 7
    named = {name for rule in alerts for name in re.findall(r"pellucid_\w+", rule["expr"])}
    table = PAGE.split("## What to watch")[1].split("\n\n")[1]
    shown = set(re.findall(r"`(pellucid_\w+)`", table))
    histograms = {name.removesuffix("_bucket") for name in told if name.endswith("_bucket")}
    assert named <= told
    assert shown <= told | histograms
    assert {name.removesuffix("_bucket") for name in named} <= shown, "what alarms is explained"


def test_the_numbers_are_the_defaults() -> None:
    limits = Limits()
    words = " ".join(PAGE.split())
    assert f"`--max-queue` ({limits.queued_requests})" in words
    assert f"pellucid_queued_requests > {limits.queued_requests // 2} # half" in words
    assert f"{DEFAULT_KV_CACHE_MEMORY >> 30} GiB at most" in words
    assert f"Stored responses take {MAX_NBYTES >> 20} MiB at most, and a body {limits.body_nbytes >> 20} MiB" in words
