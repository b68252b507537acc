"""docs/serving.md is true: its commands and examples run against a server, its numbers are the defaults."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.server import Server

from pellucid.cli.main import build_parser
from pellucid.server.app import ROUTERS
from pellucid.server.keys import load_keys
from pellucid.server.settings import Limits

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "serving.md").read_text("utf-8")


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_the_commands_and_the_python_run(smollm2_path: Path) -> None:
    with Server(str(smollm2_path), "--served-model-name", "smollm2", "-c", "512") as server:
        [commands] = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
        [of_the_readme] = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
        assert "Paris" in output("bash", "-e", "-c", of_the_readme.replace("http://127.0.0.1:8000", server.url))
        printed = output("bash", "-e", "-c", commands.replace("http://127.0.0.1:8000", server.url))
        assert "Paris" in printed
        assert "data: [DONE]" in printed
        [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
        code = code.replace("http://127.0.0.1:8000", server.url)
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
        assert result.returncode == 0, result.stderr
        assert re.fullmatch(r"[A-Z][a-z]{2,8}\n\d+ Q4_1 [0-9.]+\n", result.stdout)
        header = "Content-Type: application/json"
        body = '{"prompt": "a", "max_tokens": 0}'
        answer = output("curl", "-s", f"{server.url}/v1/completions", "-H", header, "-d", body)
        [shown] = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
        assert json.loads(answer) == json.loads(shown)
        [banner] = re.findall(r"\$ pellucid serve smollm2\n(.*?)```", PAGE, re.DOTALL)
        shape = [re.sub(r"[\d.,]+|:\d+", "", line).split()[:3] for line in banner.splitlines()]
        assert shape == [re.sub(r"[\d.,]+|:\d+", "", line).split()[:3] for line in server.banner.splitlines()]


def test_the_commands_that_measure_parse() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    [of_the_readme] = re.findall(r"^    pellucid bench serve (.*?) +#", readme, re.MULTILINE)
    assert build_parser("bench serve").parse_args(shlex.split(of_the_readme)).concurrency == 4
    lines = re.findall(r"^\$ pellucid bench serve (.*)$", PAGE, re.MULTILINE)
    assert [build_parser("bench serve").parse_args(shlex.split(line)).requests for line in lines] == [128, 100, 100]


def test_the_keys_file_is_one(tmp_path: Path) -> None:
    [text] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "keys.toml").write_text(text, "utf-8")
    key = load_keys(tmp_path / "keys.toml", None).find(b"sk-alice-0123456789")
    assert key is not None
    assert (key.name, key.max_concurrent_requests, key.requests_per_minute) == ("alice", 16, 600)


def test_every_path_is_there() -> None:
    table = PAGE.split("| path | what |")[1].split("\n\n")[0]
    paths = {
        path.removeprefix("POST ").removeprefix("GET ") for path in re.findall(r"`((?:POST |GET )?/[^`]+)`", table)
    }
    assert paths == {route.path for router in ROUTERS for route in router.routes} - {"/v1/models/{model:path}"}


def test_the_limits_are_the_defaults() -> None:
    limits = Limits()
    for text in (
        f"{limits.queued_requests}, `--max-queue`",
        f"{limits.queued_tokens:,}, `--max-queue-tokens`",
        f"{limits.body_nbytes >> 20} MiB, {limits.json_depth} levels, {limits.json_containers:,} lists",
        f"{limits.header_nbytes >> 10} KiB, {limits.num_headers} of them, {limits.header_time:g} s to send",
        f"| {limits.num_connections:,} |",
    ):
        assert text in PAGE
    assert limits.body_time == limits.write_time == limits.idle_time == 60


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = (ROOT / "examples" / "pellucid.service").read_text("utf-8")
    (tmp_path / "pellucid.service").write_text(unit.replace("/opt/pellucid/bin/pellucid", sys.executable), "utf-8")
    command = ["systemd-analyze", "verify", str(tmp_path / "pellucid.service")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [
        re.findall(r"^ExecStart=\S+ (.*)$", (ROOT / "examples" / "pellucid.service").read_text(), re.MULTILINE)[0],
        "serve --host 0.0.0.0 --port 8000 smollm2",
    ],
)
def test_the_commands_of_the_examples_parse(arguments: str) -> None:
    words = shlex.split(arguments)
    assert build_parser("serve").parse_args(words[1:]).model == "smollm2"
    dockerfile = (ROOT / "examples" / "Dockerfile").read_text()
    assert '["pellucid", "serve", "--host", "0.0.0.0", "--port", "8000"]' in dockerfile
