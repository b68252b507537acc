"""`pellucid serve` as a process: start, what it says, how it stops, and what it writes to its log."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.command import COMMAND
from support.server import Server

STORY = {"prompt": "Once upon a time", "temperature": 0, "ignore_eos": True}


def complete(url: str, **fields: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/completions", json={**STORY, "max_tokens": 8, **fields}, timeout=60)


def gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_the_banner_and_an_answer(story_server: Server) -> None:
    assert "WITHOUT AN API KEY" in story_server.banner
    assert "story" in story_server.banner
    answer = complete(story_server.url, receipt=True)
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] == 8
    assert httpx.get(f"{story_server.url}/health/ready").json() == {"status": "ready"}
    assert "pellucid_generation_tokens_total" in httpx.get(f"{story_server.url}/metrics").text


def test_sigterm_lets_what_runs_end_and_refuses_the_rest(story_path: Path) -> None:
    with Server(str(story_path), "--log-format", "json") as server:
        engines = server.children()
        body = {**STORY, "max_tokens": 400, "n": 8, "stream": True}
        with (
            httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as answer,
            httpx.Client() as other,
        ):
            lines = answer.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            until = time.monotonic() + 10
            while (ready := other.get(f"{server.url}/health/ready")).status_code == 200:
                assert time.monotonic() < until
            assert ready.json() == {"status": "draining"}
            refused = other.post(f"{server.url}/v1/completions", json=STORY)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
            rest = "".join(lines)
        assert rest.count('"finish_reason":"length"') == 8
        assert rest.endswith("data: [DONE]")
        assert server.stop() == 0
        assert gone(engines)
        for line in server.log.splitlines():
            json.loads(line)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_stops_at_once(story_path: Path, number: int) -> None:
    with Server(str(story_path), "-c", "512", "--max-num-seqs", "1") as server:
        engines = server.children()
        events: list[str] = []

        def read() -> None:
            body = {**STORY, "max_tokens": 500, "n": 100, "stream": True}
            with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as answer:
                events.extend(line for line in answer.iter_lines() if line)

        reader = threading.Thread(target=read)
        reader.start()
        time.sleep(0.5)
        server.process.send_signal(number)
        time.sleep(0.2)
        begun = time.monotonic()
        assert server.stop(number) == 0
        assert time.monotonic() - begun < 5
        reader.join(10)
        assert "error" in json.loads(events[-1].removeprefix("data: "))
        assert gone(engines)


def test_a_client_that_hangs_up_ends_its_request(story_server: Server) -> None:
    body = {**STORY, "max_tokens": 400, "n": 64, "stream": True}
    with httpx.stream("POST", f"{story_server.url}/v1/completions", json=body) as answer:
        next(answer.iter_lines())
    until = time.monotonic() + 10
    while True:
        metrics = httpx.get(f"{story_server.url}/metrics").text
        if 'pellucid_num_requests_running{model="story"} 0.0' in metrics:
            break
        assert time.monotonic() < until
        time.sleep(0.05)


def test_the_log_has_no_prompts_and_one_line_for_each_request(story_path: Path) -> None:
    evil = "secret-word\n2026-01-01 INFO forged\x1b[31m"
    with Server(str(story_path), "--log-format", "json", PELLUCID_API_KEY="from-the-environment") as server:
        assert "with the API key" in server.banner
        assert complete(server.url).status_code == 401
        headers = {"x-api-key": "from-the-environment"}
        for path in ("/v1/completions", "/evil%0a%1b[31m"):
            httpx.post(f"{server.url}{path}", json={**STORY, "prompt": evil, "max_tokens": 2}, headers=headers)
        server.stop()
        log = server.log
    assert "secret-word" not in log
    assert "from-the-environment" not in log
    requests = [record for line in log.splitlines() if (record := json.loads(line))["message"] == "request"]
    assert [record["status"] for record in requests] == [401, 200, 404]
    assert requests[1]["key"] == "default"
    assert requests[1]["completion_tokens"] == 2
    assert requests[2]["path"] == "/evil\n\x1b[31m", "escaped in the line, whole in its value"


def test_prompts_in_the_log_when_asked(story_path: Path) -> None:
    with Server(str(story_path), "--log-prompts") as server:
        complete(server.url, prompt="One \x1b[31mday\nforged", max_tokens=2)
        server.stop()
        [line] = [line for line in server.log.splitlines() if "prompt_0" in line]
    assert "One \\x1b[31mday\\nforged" in line


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def test_what_cannot_be_served_is_said(story_path: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = run(str(story_path), "--port", str(taken.getsockname()[1]))
    assert (result.returncode, "cannot listen on 127.0.0.1" in result.stderr) == (1, True)
    result = run(str(tmp_path / "missing.gguf"))
    assert result.returncode == 1
    assert "missing.gguf" in result.stderr
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(60))
    result = run(str(tmp_path / "bad.gguf"), "--port", "0")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    (tmp_path / "keys.toml").write_text("nonsense")
    result = run(str(story_path), "--port", "0", "--keys", str(tmp_path / "keys.toml"))
    assert (result.returncode, "keys.toml" in result.stderr) == (2, True)
    result = run(str(story_path), "--add-model", "nonsense")
    assert (result.returncode, "NAME=MODEL" in result.stderr) == (2, True)
    result = run(str(story_path), "--port", "0", "--tls-certificate", "x.pem")
    assert (result.returncode, "tls_key" in result.stderr) == (2, True)


def test_two_models(story_path: Path) -> None:
    arguments = ["--served-model-name", "one", "--add-model", f"two={story_path}", "--on-demand"]
    arguments += ["--kv-cache-dtype", "q8_0", "--activations", "int8"]
    with Server(str(story_path), *arguments) as server:
        assert len(server.children()) == 1
        answers = [complete(server.url, model=name).json() for name in ("one", "two")]
        assert [answer["model"] for answer in answers] == ["one", "two"]
        assert answers[0]["choices"] == answers[1]["choices"]
        assert {m["kv_cache_dtype"] for m in httpx.get(f"{server.url}/v1/models").json()["data"]} == {"q8_0"}
        assert {m["activations"] for m in httpx.get(f"{server.url}/v1/models").json()["data"]} == {"int8"}
        error = complete(server.url)
        assert (error.status_code, error.json()["error"]["param"]) == (400, "model")
        assert len(engines := server.children()) == 2
        answer = httpx.post(f"{server.url}/models/unload", json={"model": "one"})
        assert (answer.status_code, answer.json()["state"]) == (200, "unloaded")
        assert len(server.children()) == 1
        assert server.children()[0] in engines
        assert complete(server.url, model="one").status_code == 503
        assert httpx.post(f"{server.url}/models/load", json={"model": "one"}, timeout=60).status_code == 200
        assert complete(server.url, model="one").json()["choices"] == answers[0]["choices"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command makes the certificate")
def test_tls(story_path: Path, tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    result = run(str(story_path), "--port", "0", "--tls-certificate", str(key), "--tls-key", str(certificate))
    assert (result.returncode, "cannot be used" in result.stderr) == (2, True)
    with Server(str(story_path), "--tls-certificate", str(certificate), "--tls-key", str(key)) as server:
        assert server.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(certificate))
        answer = httpx.post(f"{server.url}/v1/completions", json={**STORY, "max_tokens": 4}, verify=context, timeout=60)
        assert answer.json()["usage"]["completion_tokens"] == 4
        with pytest.raises(httpx.HTTPError):
            httpx.get(server.url.replace("https", "http"), timeout=10)


def test_the_options_strict_and_api_key(story_path: Path) -> None:
    with Server(str(story_path), "--no-strict", "--api-key", "on-the-command-line") as server:
        assert "--api-key is visible to every user" in server.log
        assert complete(server.url).status_code == 401
        body = {**STORY, "max_tokens": 4, "frobnicate": 1}
        headers = {"authorization": "Bearer on-the-command-line"}
        answer = httpx.post(f"{server.url}/v1/completions", json=body, headers=headers, timeout=60)
        assert (answer.status_code, answer.headers["x-pellucid-ignored"]) == (200, "frobnicate")
